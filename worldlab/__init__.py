"""worldlab: robot policies and world models in one workbench, with the simulator as the ground truth for the dream.

Importing this package loads nothing heavy; import the subpackage you need.
"""

__version__ = "0.1.0"
