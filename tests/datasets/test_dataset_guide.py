"""Every example of the guide to data of one's own reads what it is an example of."""

import re
import tomllib
from importlib import resources
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from spoken import write_recordings
from tiny_pictures import encoded, save

from kd_ray.config import DataOptions
from kd_ray.datasets import open_dataset
from kd_ray.datasets.packed.write import pack
from kd_ray.own_code import allow

GUIDE = (resources.files("kd_ray") / "datasets" / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


TABLES = [tomllib.loads(text) for text in blocks("toml")]
EXAMPLES = {table["data"]["name"]: table["data"] for table in TABLES if "data" in table}


def test_the_guide_has_an_example_of_each_form() -> None:
    assert set(EXAMPLES) == {
        "imagefolder",
        "parquet",
        "csv",
        "packed",
        "my_data:load",
        "spoken-digits",
    }


def test_the_example_of_recordings_is_read(tmp_path: Path) -> None:
    write_recordings(tmp_path)
    options = EXAMPLES["spoken-digits"] | {"speakers": {"test": ["cy"]}, "validation": 500}
    found = open_dataset(DataOptions.model_validate(options | {"root": str(tmp_path)}))
    assert len(found.class_names) == 50
    assert found.train.rows > found.test.rows > 0


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "spoken-digits"])
def test_an_example_of_pictures_is_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        for number, kind in enumerate(("robin", "wren")):
            save(Path("pictures") / split / kind / "0.jpg", 100 * number)
        table = pa.table({"img": [encoded(0), encoded(100)], "fine_label": [0, 1]})
        Path("cifar100").mkdir(exist_ok=True)
        pq.write_table(table, Path("cifar100") / f"{split}-00000-of-00001.parquet")
    Path("birds.csv").write_text(blocks("text")[0] + "pictures/3.jpg,wren,train\n")
    for number in range(4):
        save(Path("pictures") / f"{number}.jpg")
    Path("my_data.py").write_text(blocks("python")[0])
    allow(["my_data:load"], tmp_path)
    options = EXAMPLES[name]
    if name == "packed":
        for _ in pack(DataOptions.model_validate(EXAMPLES["csv"]), options["root"]):
            pass
        options |= {"validation": 0}
    found = open_dataset(DataOptions.model_validate(options))
    assert found.class_names == (("0", "1") if name == "parquet" else ("robin", "wren"))
    assert found.train.rows >= 2
    assert found.test.rows >= 1
