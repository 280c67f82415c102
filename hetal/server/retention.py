"""The end of jobs: on request, and by themselves after the configured time."""

from __future__ import annotations

import asyncio
import logging
import time

from hetal import limits
from hetal.errors import HetalError
from hetal.server.jobs import Job, Jobs
from hetal.server.log import event
from hetal.server.prediction import Predictor
from hetal.server.uploads import Uploads


class Remover:
    """Deletes jobs with everything that works for them."""

    def __init__(self, jobs: Jobs, uploads: Uploads, predictor: Predictor) -> None:
        self._jobs = jobs
        self._uploads = uploads
        self._predictor = predictor

    async def remove(self, job: Job) -> int:
        """Bytes freed."""
        await self._uploads.revoke_job(job.id)
        await self._predictor.forget(job.id)
        return await self._jobs.delete(job)

    async def retain(self, retention_s: float) -> None:
        """Remove jobs that ended longer ago than that, until cancelled."""
        while True:
            for job in self._jobs.ended_before(time.time() - retention_s):
                try:
                    await self.remove(job)
                except (HetalError, OSError) as error:
                    event("job not removed", level=logging.ERROR, error=error, job=job.id)
            await asyncio.sleep(min(limits.RETENTION_CHECK_S, max(retention_s, 1.0)))
