"""Tide tables for the harbour at Lower Quennel."""

HIGH_WATER = {"spring": 5.4, "neap": 3.9}  # metres above the sill


def clearance(draught: float, tide: str, swell: float = 0.3) -> float:
    """Water under the keel at high tide, in metres."""
    if tide not in HIGH_WATER:
        raise ValueError(f"no tide {tide!r}, expected one of {sorted(HIGH_WATER)}")
    return HIGH_WATER[tide] - draught - swell / 2
