"""The experiment with speech of Hinton et al. 2015, section 4 and table 5: ten nets into one.

Temperature and weight of the labels are chosen by the validation rows: a student of each pair is
trained, and the students of all seeds are trained with the best.
"""

from kd_ray.studies.speech.experiments import speech
from kd_ray.studies.speech.work import SPEECH, SPEECH_QUICK, SpeechScale

__all__ = ["SPEECH", "SPEECH_QUICK", "SpeechScale", "speech"]
