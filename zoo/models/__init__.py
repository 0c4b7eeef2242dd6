"""The architectures. Importing this package registers them."""

from zoo.models import gd_ssm as gd_ssm
from zoo.models import mamba as mamba
