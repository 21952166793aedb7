"""What the commands do: ``oboro <command>``, and the scripts of the same names at the top of the repository."""
