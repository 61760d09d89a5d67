"""Public names for type checkers; at run time `__init__.py` imports each on first use."""

from mdistill.api import analyse as analyse
from mdistill.api import distill as distill
from mdistill.api import screen as screen
from mdistill.api import simulate as simulate
from mdistill.data.store import LabelStore as LabelStore
from mdistill.errors import BadInput as BadInput
from mdistill.errors import BlowUp as BlowUp
from mdistill.errors import MdistillError as MdistillError
from mdistill.estimates import Estimate as Estimate
from mdistill.export.ase import calculator as calculator
from mdistill.io.import_trajectory import read_trajectory as read_trajectory
from mdistill.io.structures import read_structure as read_structure
from mdistill.io.structures import read_system as read_system
from mdistill.labelling.import_labels import import_labels as import_labels
from mdistill.labelling.settings import LabelFileSettings as LabelFileSettings
from mdistill.outcome import Outcome as Outcome
from mdistill.simulation.settings import SimulateSettings as SimulateSettings
from mdistill.teachers.models import load as load
from mdistill.types import LabelledFrame as LabelledFrame
from mdistill.types import System as System
from mdistill.types import Trajectory as Trajectory
from mdistill.workflows.distill_settings import DistillSettings as DistillSettings
from mdistill.workflows.settings import AnalyseSettings as AnalyseSettings

__version__: str
