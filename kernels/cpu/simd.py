"""A small SIMD vector type for Numba: `<16 x i32>`, `<32 x i16>` and `<16 x f32>` as values.

Numba keeps arrays in memory, not in registers. These types wrap an LLVM vector, so that a kernel can hold
rows of a table in registers; LLVM lowers them to AVX-512, AVX2, SSE or NEON, whatever the machine has.
Only operations whose result is the same on every machine are offered: wrap-around integer arithmetic,
IEEE float add/mul/div/fma (no fast-math), and conversions that are exact or round to nearest even.

Loads and stores take (array, element index): the array must be C-contiguous; no bounds are checked.
"""

import operator

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, overload, register_model


class Vector(types.Type):
    """`lanes` values of the Numba scalar type `lane`, held in SIMD registers."""

    def __init__(self, lane, lanes):
        self.lane = lane
        self.lanes = lanes
        super().__init__(name=f"Vector({lane}, {lanes})")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, _llvm(fe_type))


def _llvm(vector):
    if isinstance(vector.lane, types.Float):
        return ir.VectorType(ir.FloatType(), vector.lanes)
    return ir.VectorType(ir.IntType(vector.lane.bitwidth), vector.lanes)


def _suffix(vector):
    kind = "f" if isinstance(vector.lane, types.Float) else "i"
    return f"v{vector.lanes}{kind}{vector.lane.bitwidth}"


i32x16 = Vector(types.int32, 16)
i16x32 = Vector(types.int16, 32)
f32x16 = Vector(types.float32, 16)


def _splat(builder, vty, scalar):
    undef = ir.Constant(vty, ir.Undefined)
    one = builder.insert_element(undef, scalar, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), vty.count), [0] * vty.count)
    return builder.shuffle_vector(one, undef, mask)


def _call(builder, name, result, args):
    fnty = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, fnty, name), args)


def _pointer(context, builder, aryty, ary, index, vty):
    array = context.make_array(aryty)(context, builder, ary)
    element = builder.gep(array.data, [index])
    return builder.bitcast(element, vty.as_pointer())


# Memory


def _loader(vector):
    @intrinsic
    def load(typingctx, array, index):
        if not isinstance(array, types.Array) or array.dtype.bitwidth != vector.lane.bitwidth:
            return None

        def codegen(context, builder, signature, args):
            index64 = context.cast(builder, args[1], signature.args[1], types.intp)
            vty = _llvm(vector)
            pointer = _pointer(context, builder, signature.args[0], args[0], index64, vty)
            result = builder.load(pointer)
            result.align = vector.lane.bitwidth // 8
            return result

        return vector(array, index), codegen

    return load


load_i32 = _loader(i32x16)
load_i16 = _loader(i16x32)
load_f32 = _loader(f32x16)


@intrinsic
def store(typingctx, array, index, value):
    """array[index : index + lanes] = value."""
    if not isinstance(value, Vector) or not isinstance(array, types.Array):
        return None

    def codegen(context, builder, signature, args):
        index64 = context.cast(builder, args[1], signature.args[1], types.intp)
        pointer = _pointer(context, builder, signature.args[0], args[0], index64, args[2].type)
        builder.store(args[2], pointer, align=signature.args[2].lane.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, index, value), codegen


@intrinsic
def transpose_16(typingctx, source, offsets, target, first, stride):
    """target[first + c * stride + r] = source[offsets[r] + c], r, c < 16: a tile of 16 x 16 int32, in registers."""
    if not all(isinstance(a, types.Array) for a in (source, offsets, target)):
        return None

    def codegen(context, builder, signature, args):
        vty = _llvm(i32x16)
        arrays = signature.args
        rows = []
        for r in range(16):
            at = _pointer(
                context, builder, arrays[1], args[1], ir.Constant(ir.IntType(64), r), ir.IntType(64)
            )
            row = builder.load(
                _pointer(context, builder, arrays[0], args[0], builder.load(at), vty)
            )
            row.align = 4
            rows.append(row)
        for d in (8, 4, 2, 1):
            low = [lane if not lane & d else 16 + lane - d for lane in range(16)]
            high = [lane + d if not lane & d else 16 + lane for lane in range(16)]
            masks = [ir.Constant(ir.VectorType(ir.IntType(32), 16), m) for m in (low, high)]
            for r in range(16):
                if not r & d:
                    pair = rows[r], rows[r + d]
                    rows[r] = builder.shuffle_vector(*pair, masks[0])
                    rows[r + d] = builder.shuffle_vector(*pair, masks[1])
        index = context.cast(builder, args[3], arrays[3], types.intp)
        step = context.cast(builder, args[4], arrays[4], types.intp)
        for r in range(16):
            pointer = _pointer(context, builder, arrays[2], args[2], index, vty)
            builder.store(rows[r], pointer, align=4)
            index = builder.add(index, step)
        return context.get_dummy_value()

    return types.void(source, offsets, target, first, stride), codegen


# Making vectors


def _splatter(vector):
    @intrinsic
    def splat(typingctx, scalar):
        if not isinstance(scalar, (types.Integer, types.Float, types.Literal)):
            return None

        def codegen(context, builder, signature, args):
            value = context.cast(builder, args[0], signature.args[0], vector.lane)
            return _splat(builder, _llvm(vector), value)

        return vector(scalar), codegen

    return splat


splat_i32 = _splatter(i32x16)
splat_i16 = _splatter(i16x32)
splat_f32 = _splatter(f32x16)


@intrinsic
def iota_i32(typingctx):
    """The vector 0, 1, ..., 15."""

    def codegen(context, builder, signature, args):
        return ir.Constant(_llvm(i32x16), list(range(16)))

    return i32x16(), codegen


# Arithmetic. Integers wrap; comparisons of i32 and i16 are signed unless the name says otherwise.


def _binary(build, vectors=(i32x16, i16x32)):
    @intrinsic
    def op(typingctx, a, b):
        if a not in vectors or a != b:
            return None

        def codegen(context, builder, signature, args):
            return build(builder, signature.args[0], args[0], args[1])

        return a(a, b), codegen

    return op


_ALL = (i32x16, i16x32, f32x16)


def _either(integer, floating):
    def build(builder, vector, a, b):
        name = floating if isinstance(vector.lane, types.Float) else integer
        return getattr(builder, name)(a, b)

    return build


_add = _binary(_either("add", "fadd"), _ALL)
_sub = _binary(_either("sub", "fsub"), _ALL)
_mul = _binary(_either("mul", "fmul"), _ALL)
_div = _binary(lambda builder, vector, a, b: builder.fdiv(a, b), (f32x16,))
_and = _binary(lambda builder, vector, a, b: builder.and_(a, b))
_or = _binary(lambda builder, vector, a, b: builder.or_(a, b))
_xor = _binary(lambda builder, vector, a, b: builder.xor(a, b))


def _named(name):
    return lambda builder, vector, a, b: _call(
        builder, f"llvm.{name}.{_suffix(vector)}", a.type, [a, b]
    )


minimum = _binary(_named("smin"))
maximum = _binary(_named("smax"))
minimum_unsigned = _binary(_named("umin"))
add_saturated = _binary(_named("sadd.sat"))


def _operator(symbol, op):
    @overload(symbol, inline="never")
    def use(a, b):
        if isinstance(a, Vector) and a == b:
            return lambda a, b: op(a, b)
        return None


for _symbol, _op in (
    (operator.add, _add),
    (operator.sub, _sub),
    (operator.mul, _mul),
    (operator.truediv, _div),
    (operator.and_, _and),
    (operator.or_, _or),
    (operator.xor, _xor),
):
    _operator(_symbol, _op)


def _shifter(build):
    @intrinsic
    def shift(typingctx, a, count):
        if not isinstance(a, Vector) or not isinstance(count, types.Integer):
            return None

        def codegen(context, builder, signature, args):
            vector = signature.args[0]
            scalar = context.cast(builder, args[1], signature.args[1], vector.lane)
            return build(builder, vector, args[0], _splat(builder, args[0].type, scalar))

        return a(a, count), codegen

    return shift


shift_left = _shifter(lambda builder, vector, a, n: builder.shl(a, n))
shift_right_logical = _shifter(lambda builder, vector, a, n: builder.lshr(a, n))
shift_right = _shifter(lambda builder, vector, a, n: builder.ashr(a, n))
rotate_left = _shifter(
    lambda builder, vector, a, n: _call(builder, f"llvm.fshl.{_suffix(vector)}", a.type, [a, a, n])
)


@intrinsic
def fma(typingctx, a, b, c):
    """a * b + c in float32 with one rounding: the same on every machine."""
    if not (a == b == c == f32x16):
        return None

    def codegen(context, builder, signature, args):
        return _call(builder, f"llvm.fma.{_suffix(f32x16)}", args[0].type, list(args))

    return f32x16(a, b, c), codegen


# Conversions


def _convert(source, target, build):
    @intrinsic
    def convert(typingctx, a):
        if a != source:
            return None

        def codegen(context, builder, signature, args):
            return build(builder, args[0], _llvm(target))

        return target(a), codegen

    return convert


int_to_float = _convert(i32x16, f32x16, lambda builder, a, vty: builder.sitofp(a, vty))
unsigned_to_float = _convert(i32x16, f32x16, lambda builder, a, vty: builder.uitofp(a, vty))
float_to_int = _convert(f32x16, i32x16, lambda builder, a, vty: builder.fptosi(a, vty))
float_bits = _convert(f32x16, i32x16, lambda builder, a, vty: builder.bitcast(a, vty))
bits_float = _convert(i32x16, f32x16, lambda builder, a, vty: builder.bitcast(a, vty))
halves = _convert(i32x16, i16x32, lambda builder, a, vty: builder.bitcast(a, vty))


# Looking at lanes


def _mask(build):
    @intrinsic
    def mask(typingctx, a, b):
        if not isinstance(a, Vector) or a != b:
            return None

        def codegen(context, builder, signature, args):
            lanes = signature.args[0].lanes
            bits = builder.bitcast(build(builder, *args), ir.IntType(lanes))
            return builder.zext(bits, ir.IntType(64))

        return types.int64(a, b), codegen

    return mask


less_equal_mask = _mask(lambda builder, a, b: builder.icmp_signed("<=", a, b))
"""Bit l of the result says whether a[l] <= b[l] (signed integers)."""

greater_mask_f32 = _mask(lambda builder, a, b: builder.fcmp_ordered(">", a, b))
"""Bit l of the result says whether a[l] > b[l] (floats; false for NaN)."""


@intrinsic
def lowest_bit(typingctx, mask):
    """The place of the lowest bit of an int64 mask that is not 0."""
    if mask != types.int64:
        return None

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(mask), codegen


def _select(build):
    @intrinsic
    def select(typingctx, a, b, yes, no):
        if a != b or yes != no or a.lanes != yes.lanes:
            return None

        def codegen(context, builder, signature, args):
            return builder.select(build(builder, args[0], args[1]), args[2], args[3])

        return yes(a, b, yes, no), codegen

    return select


where_less_i32 = _select(lambda builder, a, b: builder.icmp_signed("<", a, b))
"""Lane by lane: yes where a < b (signed), else no."""

where_greater_f32 = _select(lambda builder, a, b: builder.fcmp_ordered(">", a, b))
"""Lane by lane: yes where a > b (floats), else no."""
