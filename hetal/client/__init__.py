"""The client library.

async with Client("127.0.0.1:7443") as client:
    job = await client.train(X, y, X_val, y_val)
job.model.predict(X_new)
"""

from hetal.client.dataset import Dataset, load
from hetal.client.journal import Journal
from hetal.client.keys import KeySet
from hetal.client.model import Model
from hetal.client.session import Client, History, Progress, TrainedJob
from hetal.client.tls import Tls
from hetal.protocol.job import SoftmaxSpec

__all__ = [
    "Client",
    "Dataset",
    "History",
    "Journal",
    "KeySet",
    "Model",
    "Progress",
    "SoftmaxSpec",
    "Tls",
    "TrainedJob",
    "load",
]
