"""What the compiler makes of the CUDA kernels, seen without a GPU: instructions of inner loops, registers, spills.

    pip install nvidia-cuda-nvrtc nvidia-cuda-nvdisasm
    python benchmarks/disassembly.py [sm_80 sm_90 sm_100]

NVRTC compiles the kernels to machine code, nvdisasm writes that out, and innermost loops are counted in it. A loop
that hands values from lane to lane (SHFL.UP) is the walk of an edit alignment: it has a shuffle for each column and a
load for each cell. What runs only sometimes is counted, too. Nothing of this says how long a loop takes.
"""

import ctypes
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import NamedTuple

from wmcore.kernels.cuda import source

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
ALU = re.compile(
    "BMSK|FMNMX|FSEL|FSETP|IABS|IADD3?|IMNMX|ISETP|LEA|LOP3|MOV|PLOP3|PRMT|R2P|SEL|SGXT|SHF|VABSDIFF|VIADD(MNMX)?|VIMNMX3?"
)
"""What the integer pipe takes: the walk's limit. (IMAD goes to another one.)"""
LEAST_SIZE = 40
"""Of other loops than walks those with fewer instructions are left out of the table."""


class MissingTool(Exception):
    """A tool of NVIDIA's is not installed; the message says which, and how to get it."""


class Compiled(NamedTuple):
    """Machine code (ELF), the PTX before it, and what the compiler said, registers and spills included."""

    cubin: bytes
    ptx: bytes
    log: str


class Loop(NamedTuple):
    """An innermost loop: instructions, those of the integer pipe, loads from shared and other memory, what is written
    and read for want of registers, and columns of a walk (0: it is none)."""

    instructions: int
    alu: int
    shared: int
    others: int
    spilled: int
    columns: int

    @property
    def rows(self) -> int:
        """Rows of a walk that a lane has, where they lie in shared memory; else 0."""
        return self.shared // self.columns

    @property
    def a_column(self) -> float:
        """Instructions a column of a walk."""
        return self.instructions / self.columns


class Resources(NamedTuple):
    """Registers of a thread, and bytes that a thread writes and reads for want of registers."""

    registers: int
    spilled: int


def compiler() -> ctypes.CDLL:
    """NVRTC, from NVIDIA's wheel."""
    for package in ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"):
        for path in _files(package):
            if re.search(r"libnvrtc\.so|nvrtc64_\d+_\d\.dll", path.name):
                return ctypes.CDLL(str(path))
    raise MissingTool("NVRTC is not installed: pip install nvidia-cuda-nvrtc")


def disassembler() -> str:
    """nvdisasm: of a CUDA toolkit, or from NVIDIA's wheel."""
    found = shutil.which("nvdisasm")
    if found:
        return found
    for path in _files("nvidia-cuda-nvdisasm"):
        if path.name in ("nvdisasm", "nvdisasm.exe"):
            return str(path)
    raise MissingTool("nvdisasm is not installed: pip install nvidia-cuda-nvdisasm")


def _files(package: str) -> Iterator[Path]:
    try:
        yield from (Path(str(path.locate())) for path in files(package) or [])
    except PackageNotFoundError:
        return


def compiled(nvrtc: ctypes.CDLL, architecture: str) -> Compiled:
    """The kernels for an architecture; RuntimeError with the compiler's words where it refuses them."""
    program = ctypes.c_void_p()
    text = source.source().encode()
    _check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, b"wmcore.cu", 0, None, None))
    options = [f"--gpu-architecture={architecture}", "--ptxas-options=-v", *source.OPTIONS]
    listed = (ctypes.c_char_p * len(options))(*map(str.encode, options))
    status = nvrtc.nvrtcCompileProgram(program, len(options), listed)

    def output(what: str) -> bytes:
        size = ctypes.c_size_t()
        _check(getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        buffer = ctypes.create_string_buffer(size.value)
        _check(getattr(nvrtc, f"nvrtcGet{what}")(program, buffer))
        return buffer.raw

    log = output("ProgramLog").rstrip(b"\0").decode()
    _check(status, log)
    made = Compiled(output("CUBIN"), output("PTX"), log)
    _check(nvrtc.nvrtcDestroyProgram(ctypes.byref(program)))
    return made


def _check(status: int, what: str = "") -> None:
    if status != 0:
        raise RuntimeError(f"NVRTC: status {status}\n{what}")


def disassembled(cubin: bytes) -> str:
    """Machine code as text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "wmcore.cubin")
        path.write_bytes(cubin)
        done = subprocess.run(
            [disassembler(), "-c", str(path)], capture_output=True, text=True, check=True
        )
    return done.stdout


def loops(disassembly: str) -> dict[str, list[Loop]]:
    """The innermost loops of each kernel, functions that it calls included, in the order of the code."""
    found = {}
    for part in re.split(r"^\.text\.", disassembly, flags=re.MULTILINE)[1:]:
        name, _, code = part.partition(":")
        found[name] = _loops(code)
    return found


_LABEL = re.compile(r"(\S+):\s*$")
_INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]+\*/\s+(@!?U?P\w+\s+)?([A-Z]\w*)(\S*)\s*([^;]*);")
_TARGET = re.compile(r"`\((\S+)\)")


def _loops(code: str) -> list[Loop]:
    labels: dict[str, int] = {}
    instructions: list[re.Match[str]] = []
    for line in code.splitlines():
        label, instruction = _LABEL.match(line), _INSTRUCTION.match(line)
        if label:
            labels[label[1]] = len(instructions)
        elif instruction:
            instructions.append(instruction)
    ends = {place for place, one in enumerate(instructions) if _leaves(one)}
    spans = []
    for stop, one in enumerate(instructions):
        target = _TARGET.search(one[4])
        start = labels.get(target[1], stop + 1) if one[2] == "BRA" and target else stop + 1
        # What lies behind the end of the code, and goes back into it, is no loop.
        if start < stop and not any(start <= place < stop for place in ends):
            spans.append((start, stop))
    inner = [
        (a, b)
        for a, b in spans
        if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in spans)
    ]
    return [_counted(instructions[a : b + 1]) for a, b in sorted(inner)]


def _leaves(instruction: re.Match[str]) -> bool:
    """Whether what follows is not reached from here: the end of a function."""
    return instruction[1] is None and instruction[2] in ("EXIT", "RET")


def _counted(instructions: list[re.Match[str]]) -> Loop:
    names = Counter(one[2] for one in instructions)
    shared, others = names["LDS"], names["LD"] + names["LDG"]
    handed = sum(one[2] == "SHFL" and one[3].startswith(".UP") for one in instructions)
    return Loop(
        instructions=len(instructions),
        alu=sum(count for name, count in names.items() if ALU.fullmatch(name)),
        shared=shared,
        others=others,
        spilled=names["LDL"] + names["STL"],
        columns=handed if handed <= shared + others else 0,  # else they are sums over a warp
    )


def resources(log: str) -> dict[str, Resources]:
    """Registers and spills of each kernel, functions that it calls included."""
    found = {}
    for part in log.split("Compiling entry function '")[1:]:
        registers = re.search(r"Used (\d+) registers", part)
        assert registers
        spilled = sum(map(int, re.findall(r"(\d+) bytes spill", part)))
        found[part.partition("'")[0]] = Resources(int(registers[1]), spilled)
    return found


def walks(found: list[Loop], rows: int) -> list[Loop]:
    """The unrolled walks in shared memory with so many rows a lane, from the least to the most instructions."""
    return sorted(one for one in found if one.columns > 1 and one.rows == rows)


def report(architecture: str, made: Compiled) -> Iterator[str]:
    """A table: a line for each kernel, and one for each of its loops."""
    used = resources(made.log)
    found = loops(disassembled(made.cubin))
    yield f"{architecture}: {len(made.cubin)} bytes"
    for name in used:
        yield f"  {name}: {used[name].registers} registers, {used[name].spilled} bytes spilled"
        yield from (f"    {_line(one)}" for one in found[name] if one.columns or _large(one))


def _large(loop: Loop) -> bool:
    return loop.instructions >= LEAST_SIZE


def _line(loop: Loop) -> str:
    each = max(1, loop.columns)
    what = f"{loop.columns} columns of a walk, each " if loop.columns else ""
    return (
        f"{what}{loop.instructions / each:g} instructions, {loop.alu / each:g} of the integer pipe, "
        f"{loop.shared / each:g} loads of shared memory, {loop.others / each:g} others, "
        f"{loop.spilled / each:g} spills"
    )


def main() -> None:
    try:
        nvrtc = compiler()
        for architecture in sys.argv[1:] or ARCHITECTURES:
            print(*report(architecture, compiled(nvrtc, architecture)), sep="\n")
    except MissingTool as missing:
        sys.exit(str(missing))


if __name__ == "__main__":
    main()
