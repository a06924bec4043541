"""From sums over the inputs of all processes to a result."""

from __future__ import annotations

from fimsym.engine import bounded, empirical
from fimsym.engine.accumulate import ERROR, Accumulator
from fimsym.engine.analysis import Analysis
from fimsym.engine.distributed import Share
from fimsym.engine.head import Head
from fimsym.engine.network import Network
from fimsym.engine.quantities import by_group


def outcome(
    network: Network,
    head: Head,
    sums: Accumulator,
    share: Share,
    grouping: str,
    notes: tuple[str, ...],
) -> Analysis:
    """Return the means over inputs, by parameter; the sums are used up.

    Args:
        network: The network.
        head: The law of the labels.
        sums: Of all inputs.
        share: How many these are, and what is known of them.
        grouping: How parameters are grouped.
        notes: What there was to say.
    """
    means = _means(network, sums, share.count)
    spread = {}
    if sums.squares is not None:
        divisor = share.count - 1 if share.count > 1 else float("nan")
        spread = network.split(sums.squares.div_(divisor).cpu())
    roads, ways = share.taken
    return Analysis(
        family=head.spec.name,
        link=head.link,
        constants=head.constants,
        inputs=share.count,
        outputs=share.outputs,
        **means,
        spread=spread,
        grouping=grouping,
        roads=roads,
        ways=ways,
        frozen=network.frozen,
        group_errors=_of_groups(network, sums, share.count, grouping),
        interrupted=share.interrupted,
        notes=notes,
        expected_inputs=share.total,
    )


def _means(network: Network, sums: Accumulator, count: int) -> dict[str, dict]:
    """Return the means of what was asked for, of errors and of bounds, and complete the squares."""
    one_label = sums.agree(empirical.SHIFT, empirical.EMPIRICAL)
    values, errors, limits = {}, {}, {}
    for quantity, mean in sums.means(count, bounded.NAMES).items():
        if quantity.startswith(ERROR):
            error = (mean / count).sqrt_()
            errors[quantity.removeprefix(ERROR)] = network.split(error)
        else:
            kept = limits if quantity in bounded.NAMES else values
            kept[quantity] = network.split(mean)
    if one_label:
        del values[empirical.SHIFT]
    return {"values": values, "standard_errors": errors, "bounds": limits}


def _of_groups(network, sums, count, grouping) -> dict[str, dict[str, float]]:
    """Return the standard errors of estimated sums over groups."""
    groups = by_group(network.names, grouping)
    return {
        quantity.removeprefix(ERROR): dict(
            zip(groups, (variance.sqrt() / count).tolist(), strict=True)
        )
        for quantity, variance in sums.of_groups.items()
    }
