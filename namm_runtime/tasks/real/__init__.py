"""Real text that every machine with Python has, with facts planted in it and questions about them."""

from namm_runtime.tasks.real.documents import Asked, RealDocument, real_documents
from namm_runtime.tasks.real.wordings import LANGUAGES

__all__ = ["LANGUAGES", "Asked", "RealDocument", "real_documents"]
