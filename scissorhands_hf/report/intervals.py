"""How far a share that was counted in some pictures may be from that of all pictures."""

import math


def wilson_interval(seen: int, images: int, z: float = 1.959964) -> tuple[float, float]:
    """
    The score interval of a binomial share, which is honest for shares near 0 and 1 as well (E. B. Wilson, "Probable Inference,
    the Law of Succession, and Statistical Inference", Journal of the American Statistical Association 22, 1927).

    Args:
        seen (`int`):
            Pictures that show it, 0 ≤ seen ≤ images.
        images (`int`):
            Pictures in all, at least 1.
        z (`float`, *optional*, defaults to `1.959964`):
            Standard deviations; the default covers 95 %.

    Returns:
        Lower and upper end, both in [0, 1].
    """
    if images < 1 or not 0 <= seen <= images:
        raise ValueError(f"seen={seen} of images={images}: at least one picture, and no more seen than there are")
    share, weight = seen / images, z * z / images
    centre = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / images + weight / (4 * images)) / (1 + weight)
    return max(0.0, centre - half), min(1.0, centre + half)
