"""The inner loops of the CUDA kernels, counted in the machine code: they do not grow unseen."""

import sys

import pytest
from peers import unavailable

from wmcore.kernels.cuda.groups import UNROLL

MOST = {
    "bound": (27, 30),
    "hits": (27, 30),
    "null_values": (27, 30),
    "observe": (27, 30),
    "null_prefixes": (53,),
    "observe_prefixes": (53,),
}
"""Instructions a column of 224 cells (bound: 448) on sm_90, without and with gaps: 25 to 26, 28 to 29; prefixes 51,
of which 31 run in most columns. Another compiler may need one or two more."""

MOST_A_TOKEN = {"its_top": (10.5, 12.5, 27), "its_sample": (47, 49, 64)}
"""Instructions a token on sm_90, of float32, bfloat16 and float16: 9.8, 11.8, 25.8 and, with what seldom runs, 45.5,
47.5, 61.5."""

LISTING = """
//--------------------- .text.walk_it --------------------------
	.section	.text.walk_it,"ax",@progbits
.text.walk_it:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   ISETP.GE.AND P0, PT, R2, R5, PT ;
.L_x_2:
        /*0020*/                   SHFL.UP PT, R5, R8, 0x1, RZ ;
        /*0030*/                   BRA.DIV UR4, `(.L_x_9) ;
.L_x_8:
        /*0040*/              @!P2 IADD3 R3, R3, 0x4, RZ ;
        /*0050*/                   LDS R6, [R3+0x4] ;
        /*0060*/                   VIADDMNMX.S16x2 R56, R45, R56, R50, PT ;
        /*0070*/                   LDS R7, [R3] ;
        /*0080*/                   SHFL.UP PT, R5, R8, 0x1, RZ ;
        /*0090*/                   IMAD.MOV.U32 R9, RZ, RZ, R8 ;
        /*00a0*/               @P1 EXIT ;
        /*00a8*/                   STL [R1+0x8], R9 ;
        /*00b0*/              @P0 BRA `(.L_x_2) ;
        /*00c0*/              @P3 BRA `(.L_x_1) ;
        /*00d0*/                   EXIT ;
.L_x_9:
        /*00e0*/                   SHFL.UP PT, R5, R8, 0x1, RZ ;
        /*00f0*/                   BRA `(.L_x_8) ;
.L_x_10:
        /*0100*/                   BRA `(.L_x_10);
//--------------------- .text.sum_it --------------------------
.text.sum_it:
.L_x_20:
        /*0000*/                   LDG.E R4, desc[UR6][R6.64] ;
        /*0010*/                   SHFL.UP PT, R5, R8, 0x1, RZ ;
        /*0020*/                   SHFL.UP PT, R5, R8, 0x2, RZ ;
        /*0030*/              @P0 BRA `(.L_x_20) ;
        /*0040*/                   EXIT ;
"""

LOG = """ptxas info    : Compiling entry function 'one' for 'sm_90'
ptxas info    : Function properties for one
ptxas         .     0 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers
ptxas info    : Function properties for _Z6called
ptxas         .     0 bytes stack frame, 4 bytes spill stores, 0 bytes spill loads
ptxas info    : Compiling entry function 'two' for 'sm_90'
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 18 registers, used 0 barriers
"""


def test_innermost_loops_are_counted(disassembly):
    """Not the loop around, nor code behind the end that goes back; sums over a warp are no walk."""
    found = disassembly.loops(LISTING)
    Loop = disassembly.Loop
    assert found == {"walk_it": [Loop(11, 2, 2, 0, 1, 2)], "sum_it": [Loop(4, 0, 0, 1, 0, 0)]}
    (walk,) = disassembly.walks(found["walk_it"], 1)
    assert walk.a_column == 5.5
    assert not disassembly.walks(found["walk_it"], 2)
    assert not disassembly.walks(found["sum_it"], 1)


def test_registers_and_spills_are_read(disassembly):
    assert disassembly.resources(LOG) == {"one": (64, 32), "two": (18, 0)}
    assert not disassembly.resources("")


def test_a_missing_tool_is_named_with_its_remedy(disassembly, monkeypatch):
    monkeypatch.setattr(disassembly.shutil, "which", lambda name: None)
    monkeypatch.setattr(disassembly, "files", lambda package: [])
    with pytest.raises(disassembly.MissingTool, match="pip install nvidia-cuda-nvdisasm"):
        disassembly.disassembler()
    monkeypatch.setattr(sys, "argv", ["disassembly.py"])
    with pytest.raises(SystemExit, match="pip install nvidia-cuda-nvrtc"):
        disassembly.main()


def test_inner_loops_are_no_longer_than_they_were(disassembly):
    """For texts of 193 to 224 tokens, as the paper's are, with tiles in shared memory."""
    try:
        disassembly.disassembler()
        made = disassembly.compiled(disassembly.compiler(), "sm_90")
        found = disassembly.loops(disassembly.disassembled(made.cubin))
    except disassembly.MissingTool as missing:
        unavailable(str(missing))
    for name, most in MOST.items():
        counted = disassembly.walks(found[name], 7)
        assert len(counted) == len(most), name
        for loop, limit in zip(counted, most, strict=True):
            assert loop.columns == UNROLL
            assert loop.a_column <= limit, name
            assert loop.spilled == 0, name
    for name, most in MOST_A_TOKEN.items():
        # The loads of four tokens, of whole runs and of the last; their runs of ranks.
        four = sorted(one.instructions for one in found[name] if one.others >= 8)
        assert len(four) == len(most), name
        assert all(count <= 4 * limit for count, limit in zip(four, most, strict=True)), name
    used = disassembly.resources(made.log)["its_sample"]
    assert (used.registers <= 40, used.spilled) == (True, 0)  # six blocks at once
    assert all(used.registers <= 64 for used in disassembly.resources(made.log).values())
