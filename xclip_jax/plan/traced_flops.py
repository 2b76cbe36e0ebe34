"""Counts the matrix products of a traced program, every round of its loops.

What is computed again for the way back is counted too: these are the operations that a chip does,
where `flops` has those that the model asks for.
"""

import math


def count(jaxpr) -> int:
    """Returns the operations of a jaxpr over all devices, two a multiplication."""
    total = 0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        match equation.primitive.name:
            case "dot_general":
                (contracted, _), _ = equation.params["dimension_numbers"]
                left = equation.invars[0].aval.shape
                summed = math.prod(left[axis] for axis in contracted)
                total += 2 * equation.outvars[0].aval.size * summed
            case "conv_general_dilated":
                kernel = equation.invars[1].aval
                features = equation.params["dimension_numbers"].rhs_spec[0]
                each = kernel.size // kernel.shape[features]
                total += 2 * equation.outvars[0].aval.size * each
            case "scan":
                total += equation.params["length"] * count(equation.params["jaxpr"])
            case "while":
                total += _rounds(equation) * count(equation.params["body_jaxpr"])
            case "shard_map":  # what each device does
                total += equation.params["mesh"].size * count(equation.params["jaxpr"])
            case "cond":
                total += max(count(branch) for branch in equation.params["branches"])
            case _:
                total += sum(
                    count(value)
                    for value in equation.params.values()
                    if hasattr(getattr(value, "jaxpr", value), "eqns")
                )
    return total


def _rounds(equation) -> int:
    """Returns how often the loop of a `fori_loop` between numbers goes round, else 1."""
    params = equation.params
    skipped = params["cond_nconsts"] + params["body_nconsts"]
    state = equation.invars[skipped:]
    condition = params["cond_jaxpr"].jaxpr
    counted = condition.invars[params["cond_nconsts"] :]
    for test in condition.eqns:
        if test.primitive.name == "lt":
            ends = [
                operand if hasattr(operand, "val") else state[counted.index(operand)]
                for operand in test.invars
                if hasattr(operand, "val") or operand in counted
            ]
            if len(ends) == 2 and all(hasattr(end, "val") for end in ends):
                return int(ends[1].val) - int(ends[0].val)
    return 1
