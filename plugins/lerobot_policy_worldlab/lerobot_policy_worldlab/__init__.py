"""What LeRobot imports to learn of worldlab: its policies, its tasks, its simulated arm and who drives it.

The module names are LeRobot's contract: it finds `modeling_worldlab`, `processor_worldlab`, `worldlab_so101` and
`worldlab_teleop` by replacing parts of the names of the configurations' modules.
"""

from lerobot_policy_worldlab.config_worldlab_so101 import WorldlabSO101Config
from lerobot_policy_worldlab.config_worldlab_teleop import WorldlabTeleopConfig
from lerobot_policy_worldlab.configuration_worldlab import WorldlabConfig
from lerobot_policy_worldlab.env_worldlab import WorldlabEnvConfig

__all__ = ["WorldlabConfig", "WorldlabEnvConfig", "WorldlabSO101Config", "WorldlabTeleopConfig"]
