"""How a network draws: about its mean, from white noise of its own.

A network trained by the squared error gives the mean of p(x_0 | x_t, c), and a sampler of few steps then draws too
narrowly. One that draws x_0 itself, trained by a scoring rule, is right in any number of steps (De Bortoli et al. 2025,
"Distributional diffusion models with scoring rules", arXiv 2502.02483). Here the mean is trained first and stays.

Shapes: B images, M draws of each, H hidden width, D numbers of a state, Z numbers of noise.
"""

from torch import Tensor, nn

NOISE_NUMBERS = 32
WIDTH = 256


class SpreadHead(nn.Module):
    """g(h, z) − g(h, 0) of a hidden layer h and white noise z: no noise is the mean itself."""

    def __init__(self, hidden: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False)
        self.of_hidden, self.of_noise = nn.Linear(hidden, WIDTH), nn.Linear(NOISE_NUMBERS, WIDTH, bias=False)
        self.mixed = nn.Linear(WIDTH, WIDTH)
        self.outlet = nn.Linear(WIDTH, outputs, bias=False)
        nn.init.zeros_(self.outlet.weight)

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        """Hidden layers (B, H) and noise (M·B, Z) to what is added to the network's output, (M, B, D)."""
        seen = self.of_hidden(self.norm(h))
        noise_MBH = self.of_noise(z).unflatten(0, (-1, len(h)))
        drawn: Tensor = self.outlet(self._g(seen + noise_MBH) - self._g(seen))
        return drawn

    def _g(self, seen: Tensor) -> Tensor:
        first = nn.functional.silu(seen)
        return first + nn.functional.silu(self.mixed(first))
