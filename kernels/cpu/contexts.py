"""Where a context of the Gumbel watermarks of serving engines is new in its text."""

from .jit import njit


@njit(nogil=True)
def first_contexts(tokens, start, width, hashes, table, out):
    """out[i] = whether no token from `start` to before token start + i has the same context: bool [m].

    A context is the `width` tokens before, or as many as there are. tokens: uint32 [start + m]; hashes: uint32 [m], the
    same for equal contexts; table: int64, scratch, a power of two > m.
    """
    mask = table.size - 1
    table[:] = -1
    for i in range(out.size):
        out[i] = True
        place = start + i - width
        if place < 0:
            continue  # shorter than any other
        slot = hashes[i] & mask
        while table[slot] >= 0:
            other = table[slot]
            same = True
            for j in range(width):
                if tokens[other + j] != tokens[place + j]:
                    same = False
                    break
            if same:
                out[i] = False
                break
            slot = (slot + 1) & mask
        if out[i]:
            table[slot] = place


@njit(nogil=True)
def table_size(m):
    """Of the table for m tokens: a power of two, at most half full."""
    size = 16
    while size < 2 * m:
        size *= 2
    return size
