"""Layer normalisation whose gradient does not depend on the number of threads."""

from torch import Tensor, nn
from torch.nn.functional import layer_norm


class LayerNorm(nn.LayerNorm):
    """(u - mean) / sqrt(var + eps) * weight + bias over the last dimension, as `nn.LayerNorm`.

    On a CPU the kernel of torch sums the gradients of weight and bias over the rows of each thread
    first, so that their last bits depend on how many there are. Here they are sums of products.
    """

    def forward(self, u: Tensor) -> Tensor:
        if u.device.type != "cpu":
            return super().forward(u)
        normalised: Tensor = layer_norm(u, self.normalized_shape, eps=self.eps)
        return normalised * self.weight + self.bias
