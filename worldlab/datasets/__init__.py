"""Episodes on disk, and what is trained from them: the store, random windows, statistics, LeRobot's format."""

from worldlab.datasets.merge import merge as merge
from worldlab.datasets.stats import statistics as statistics
from worldlab.datasets.store import EpisodeStore as EpisodeStore
from worldlab.datasets.strided import Strided as Strided
from worldlab.datasets.strided import check_action_repeat as check_action_repeat
from worldlab.datasets.windows import Windows as Windows
