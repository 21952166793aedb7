"""What runs as ``__main__`` when ``oboro train`` or the like is typed.

Lightning's ranks and the jobs of a sweep start the main module again, as ``python -m oboro.cli.commands.train``. So
these commands need a module each, and it must not be imported by any other.
"""
