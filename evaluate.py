import hydra
from omegaconf import DictConfig

from oboro import cli


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(config: DictConfig) -> None:
    cli.evaluate(config)


if __name__ == "__main__":
    cli.run(main, from_checkpoint=True, gather=cli.benchmark)
