"""The mirror symmetries of a system matrix's x-channel.

Shapes: B images, 2 parts (real, imaginary), Y and X pixels.
"""

from torch import Tensor


def mirrored(images: Tensor, orders: Tensor, along_x: Tensor, along_y: Tensor) -> Tensor:
    """Images of the x-channel (B, 2, Y, X), mirrored where asked and with the sign that keeps them what they are.

    The component of mixing orders (m_x, m_y) becomes −(−1)^(m_x) times itself under x → −x, and (−1)^(m_y) times itself
    under y → −y. Under y that is exact if N_d is odd, under x if N_d is even; else it holds up to the aliases of the
    Lissajous path (orders about N_d higher, of the other parity). So on noise-free data the exact mirror images are the
    images themselves; with noise they are new draws of it. Of an imperfect scanner they are those of its mirror image.

    Args:
        orders: (m_x, m_y), of the x-channel or of a y-channel seen along its own axis, (B, 2).
        along_x, along_y: which images to mirror, bool, (B,).
    """
    sign_x, sign_y = parity_signs(orders)
    images = (sign_x[:, None, None, None] * images.flip(3)).where(along_x[:, None, None, None], images)
    return (sign_y[:, None, None, None] * images.flip(2)).where(along_y[:, None, None, None], images)


def parity_signs(orders: Tensor) -> tuple[Tensor, Tensor]:
    """The signs under x → −x and under y → −y of components of these mixing orders (B, 2), each (B,)."""
    m_x, m_y = orders.unbind(1)
    return 2 * (m_x % 2) - 1, 1 - 2 * (m_y % 2)
