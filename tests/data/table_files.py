"""Tables for tests of data."""

from distillkac.data import DataConfig


def config(path, tmp_path, **options):
    options = options if options.get("streaming") else {"held_out": 0.0} | options
    return DataConfig(path=str(path), cache=str(tmp_path / "cache"), **options)
