"""Evaluation: success that can be trusted, comparisons on the same seeds, controls, and the report to show."""

from worldlab.eval.branch_report import write_imagined as write_imagined
from worldlab.eval.compare import Comparison as Comparison
from worldlab.eval.compare import compare as compare
from worldlab.eval.controls import BlankImage as BlankImage
from worldlab.eval.controls import WrongInstruction as WrongInstruction
from worldlab.eval.controls import controls as controls
from worldlab.eval.controls import cube_colours as cube_colours
from worldlab.eval.counterfactual import CounterfactualResult as CounterfactualResult
from worldlab.eval.counterfactual import counterfactual as counterfactual
from worldlab.eval.probe import fit_probe as fit_probe
from worldlab.eval.report import write_report as write_report
from worldlab.eval.success import Episode as Episode
from worldlab.eval.success import SuccessResult as SuccessResult
from worldlab.eval.success import success as success
