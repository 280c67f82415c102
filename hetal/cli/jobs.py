"""``hetal jobs``: list, show, cancel and delete jobs on a server, and tell what one may have there."""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict

from hetal._pb import hetal_pb2 as pb
from hetal.cli.call_log import add_log_option
from hetal.cli.connection import add_connection_options, connect
from hetal.units import size

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Subparsers = Any


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("jobs", help="look after jobs on a server")
    parser.add_argument("action", choices=("list", "show", "cancel", "delete", "shares"))
    parser.add_argument("job", nargs="?", metavar="ID", help="for show, cancel and delete")
    parser.add_argument("--server", required=True, metavar="HOST:PORT")
    parser.add_argument("--json", action="store_true")
    add_log_option(parser)
    add_connection_options(parser)
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    if (args.action in ("list", "shares")) != (args.job is None):
        args.parser.error("list and shares take no ID; show, cancel and delete take one")
    return asyncio.run(_run(args))


async def _run(args: argparse.Namespace) -> int:
    async with connect(args) as client:
        if args.action == "list":
            jobs = await client.jobs()
            if args.json:
                print(json.dumps([MessageToDict(job) for job in jobs]))
            for job in jobs if not args.json else ():
                print(_line(job))
        elif args.action == "shares":
            shares = await client.shares()
            print(json.dumps(MessageToDict(shares)) if args.json else _shares(shares))
        elif args.action == "delete":
            freed = await client.delete(args.job)
            print(json.dumps({"bytes_freed": freed}) if args.json else f"{size(freed)} freed")
        else:
            job = await (client.get if args.action == "show" else client.cancel)(args.job)
            print(json.dumps(MessageToDict(job)) if args.json else _line(job))
            if job.HasField("failure") and not args.json:
                print(f"  [{job.failure.code}] {job.failure.message}\n  hint: {job.failure.hint}")
    return 0


def _shares(shares: Any) -> str:
    rows = (
        ("unfinished jobs", shares.unfinished_jobs, shares.unfinished_jobs_max),
        ("jobs", shares.jobs, shares.jobs_max),
        ("bytes stored", size(shares.bytes), size(shares.bytes_max)),
        ("compute minutes", f"{shares.compute_minutes:.1f}", f"{shares.compute_minutes_max:g}"),
    )
    lines = [f"{what:15}  {has:>8} of {most}" for what, has, most in rows]
    return "\n".join([shares.owner, *lines]) + f" in {shares.compute_days} days"


def _line(job: Any) -> str:
    state = pb.JobState.Name(job.state).removeprefix("JOB_STATE_").lower().replace("_", " ")
    stored = size(job.bytes_stored)
    return f"{job.id}  {state:15}  epoch {job.epoch:3}  {stored:>8}  {job.owner}  {job.manifest.name}"
