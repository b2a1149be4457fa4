"""Real text that every machine with Python has, with facts planted in it and questions about them."""

from namm_runtime.tasks.real.documents import Asked, RealDocument, real_documents

__all__ = ["Asked", "RealDocument", "real_documents"]
