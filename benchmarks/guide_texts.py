"""The answers that `guide.py` tests: SmolLM2's, of up to 200 tokens, to people's questions and to requests for code.

Files and fields as in `entropy_texts.py`.
"""

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import entropy_texts
from entropy_texts import Job, Setting

SEED = 1
TOKENS = 200

SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("guide-t1", "T = 1", "instruct", 1.0, 1.0, TOKENS, 120, ("exp",)),
        Setting("guide-t0.7", "T = 0.7, top-p 0.9", "instruct", 0.7, 0.9, TOKENS, 120, ("exp",)),
        Setting("guide-t0.5", "T = 0.5, top-p 0.9", "instruct", 0.5, 0.9, TOKENS, 120, ("exp",)),
        Setting(
            "guide-code", "code, T = 0.7, top-p 0.9", "instruct", 0.7, 0.9, TOKENS, 60, ("exp",)
        ),
    )
}

TASKS = (
    "reverses a string",
    "counts the words of a file",
    "merges two sorted lists",
    "finds the largest prime below n",
    "reads a CSV file and sums a column",
    "removes duplicates from a list and keeps the order",
    "checks whether a word is a palindrome",
    "converts Roman numerals to numbers",
    "draws a random password",
    "computes the edit distance of two words",
    "parses a date such as 2024-02-29",
    "sorts a list of dictionaries by a key",
    "downloads a page and returns its title",
    "computes the mean and the median of numbers",
    "transposes a matrix",
    "renames all files of a folder to lower case",
    "finds the shortest path in a graph",
    "flattens a nested list",
    "counts the vowels of a sentence",
    "writes a dictionary to a JSON file",
)
LANGUAGES = ("Python", "JavaScript", "Java")


def make(folder: Path, data: Path, processes: int) -> None:
    """Write what is missing of all files."""
    for name in ("texts", "keys", "code"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    tasks = [
        {"instruction": f"Write a function in {language} that {task}."}
        for language in LANGUAGES
        for task in TASKS
    ]
    lines = "".join(json.dumps(task) + "\n" for task in tasks)
    (folder / "code" / "instructions.jsonl").write_text(lines, encoding="utf-8")
    jobs = [
        Job(setting, "exp", folder, folder / "code" if name == "guide-code" else data, SEED)
        for name, setting in SETTINGS.items()
    ]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for line in pool.map(entropy_texts.write, jobs):
            print(line, flush=True)
