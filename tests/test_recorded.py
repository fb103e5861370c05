"""What the code said before the package was rebuilt inside, it still says: see `recorded/make.py`."""

import json
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
from recorded.cases import FILES

FOLDER = Path(__file__).parent / "recorded"

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def recorded():
    return {file: json.loads((FOLDER / f"{file}.json").read_text()) for file in FILES}


@pytest.mark.parametrize("file", FILES)
def test_every_case_is_recorded(recorded, file):
    assert list(recorded[file]) == list(FILES[file])


@pytest.mark.parametrize(("file", "name"), [(file, name) for file in FILES for name in FILES[file]])
def test_same_as_recorded(recorded, file, name):
    said = json.loads(json.dumps(FILES[file][name]()))  # tuples become lists
    assert said == recorded[file][name]
