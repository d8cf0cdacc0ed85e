"""The configuration of a head's HTTP API and its flags: TLS, API keys, limits of requests, storage of videos."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from omni_worker.config.flag_types import at_least, between, positive
from omni_worker.errors import UsageError

MIB, GIB = 2**20, 2**30
HOUR = 3600.0
DATABASE_URL = "OMNI_DATABASE_URL"
"""Alternative to --database-url: a URL can contain a password, and other users can read command lines."""


@dataclass(frozen=True)
class Limits:
    """The most that one request may ask for.

    pixels: of an image or of one frame of a video, generated or sent
    frames: of a video
    video_pixels: of all frames of a video together; each takes three bytes, on the device, the replica and the head
    audio_seconds: of a sound
    count: results of one request, its `n`
    prompt: length in characters
    conversation: length of all its messages in characters, if a pipeline answers it with text
    body: length in bytes
    bodies: bytes of the bodies of all requests together, while they are answered
    """

    pixels: int = 4096 * 4096
    steps: int = 1000
    frames: int = 1000
    video_pixels: int = 512 * 1024 * 1024
    audio_seconds: int = 600
    count: int = 10
    prompt: int = 32_000
    conversation: int = 1_000_000
    body: int = 64 * MIB
    bodies: int = 512 * MIB


@dataclass(frozen=True)
class LoraLimits:
    """The most LoRA adapters that a head keeps.

    count: added by clients
    total_bytes: of the files of all adapters that a replica holds
    """

    count: int = 64
    total_bytes: int = 16 * GIB


@dataclass(frozen=True)
class VideoConfig:
    """Where videos are stored, and for how long.

    folder, database: a folder for an SQLite file, or the SQLAlchemy URL of a database; with neither, videos are stored
        in a temporary folder, which the head deletes when it ends
    jobs: videos that are generated at one time
    seconds: how long a finished video is kept
    size: bytes of all finished videos; above this the oldest are deleted
    """

    folder: str | None = None
    database: str | None = field(default=None, repr=False)
    jobs: int = 4
    seconds: float = 24 * HOUR
    size: int = 10 * GIB


@dataclass(frozen=True)
class Certificate:
    """The PEM files of a server's certificate chain and its private key; None if the chain's file contains the key."""

    chain: str
    key: str | None = None


@dataclass(frozen=True)
class ApiConfig:
    """The configuration of the HTTP API.

    origins: the web origins whose pages may call it (CORS)
    is_local: whether it listens on loopback only, so that it checks which web pages call it
    hosts: names by which a local one may be called, in addition to those of the machine
    result_cache_bytes: bytes of results to keep for repeated requests; 0 keeps none
    """

    certificate: Certificate | None = None
    limits: Limits = field(default_factory=Limits)
    key_file: str | None = None
    origins: tuple[str, ...] = ()
    is_local: bool = False
    hosts: tuple[str, ...] = ()
    playground: bool = True
    videos: VideoConfig = field(default_factory=VideoConfig)
    loras: LoraLimits = field(default_factory=LoraLimits)
    result_cache_bytes: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the API to those of `omni serve`."""
    _add_access_flags(parser)
    _add_limit_flags(parser)
    _add_video_flags(parser)
    _add_lora_flags(parser)


def _add_access_flags(parser: argparse.ArgumentParser) -> None:
    """TLS, API keys, web origins and the playground."""
    parser.add_argument(
        "--ssl-certfile",
        metavar="FILE",
        help="head: speak HTTPS, with the certificate in this file, in PEM, and those above it; read again when it "
        "changes (default: HTTP)",
    )
    parser.add_argument(
        "--ssl-keyfile", metavar="FILE", help="head: its private key (default: in the file of --ssl-certfile)"
    )
    parser.add_argument(
        "--api-key-file",
        metavar="FILE",
        help="head: the keys of clients, one per line, with options such as tenant=NAME; read again when it changes "
        "(default: no key is needed)",
    )
    parser.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="head: a web origin whose pages may call the API, such as https://example.org, or *; may be repeated",
    )
    parser.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="head: a public name by which clients call a server that listens on loopback only, such as its proxy's; "
        "may be repeated",
    )
    parser.add_argument(
        "--playground",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="head: serve a page for people at / (default: do)",
    )


def _add_limit_flags(parser: argparse.ArgumentParser) -> None:
    """The limits of one request."""
    limits = Limits()
    for flag, default, unit in (
        ("--max-pixels", limits.pixels, "pixels of a picture or of a frame, asked for or sent"),
        ("--max-steps", limits.steps, "denoising steps of a request"),
        ("--max-frames", limits.frames, "frames of a video"),
        ("--max-video-pixels", limits.video_pixels, "pixels of all frames of a video together, three bytes each"),
        ("--max-audio-seconds", limits.audio_seconds, "seconds of a sound"),
        ("--max-n", limits.count, "answers to one request"),
        ("--max-body-bytes", limits.body, "bytes of a request's body; longer ones get HTTP 413"),
        ("--max-buffered-bytes", limits.bodies, "bytes of the bodies of all requests together; more get HTTP 503"),
    ):
        parser.add_argument(
            flag, type=at_least(1), default=default, metavar="N", help=f"head: {unit} (default: {default})"
        )
    parser.add_argument(
        "--result-cache-bytes",
        type=at_least(0),
        default=0,
        metavar="N",
        help="head: memory in which it keeps pictures and sounds, for a client that sends the same request with the "
        "same seed again; 0 keeps none (default: 0)",
    )
    parser.add_argument(
        "--max-prompt-length",
        type=at_least(1),
        metavar="N",
        help=f"head: characters of a prompt (default: {limits.prompt}), or of all messages of a conversation that the "
        f"pipeline answers with text (default: {limits.conversation})",
    )


def _add_video_flags(parser: argparse.ArgumentParser) -> None:
    """How many videos are generated at one time, and where and how long they are stored."""
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="head: folder for videos and their jobs, of this pipeline alone, so that they outlast the head "
        "(default: a temporary one, which does not)",
    )
    parser.add_argument(
        "--database-url",
        metavar="URL",
        help="head: a database for them instead, of this pipeline alone, as SQLAlchemy names it; its driver is to be "
        f"installed (default: ${DATABASE_URL}, or SQLite in --data-dir)",
    )
    parser.add_argument(
        "--video-jobs", type=at_least(1), default=4, metavar="N", help="head: videos made at one time (default: 4)"
    )
    parser.add_argument(
        "--video-max-age",
        type=positive,
        default=24.0,
        metavar="HOURS",
        help="head: videos are kept so long (default: 24)",
    )
    parser.add_argument(
        "--video-max-bytes",
        type=at_least(1),
        default=10 * GIB,
        metavar="N",
        help="head: and so many bytes of them in all, of which the oldest go first (default: 10 GiB)",
    )


def _add_lora_flags(parser: argparse.ArgumentParser) -> None:
    """How many LoRA adapters there may be."""
    limits = LoraLimits()
    parser.add_argument(
        "--max-loras",
        type=between(1, 256),
        default=limits.count,
        metavar="N",
        help="head: LoRA adapters that clients can add; for a further one, the one that was not used for the longest "
        f"time is removed (default: {limits.count})",
    )
    parser.add_argument(
        "--max-lora-bytes",
        type=at_least(1),
        default=limits.total_bytes,
        metavar="N",
        help="head: bytes of the files of all LoRA adapters at a replica (default: 16 GiB)",
    )


def from_arguments(args: argparse.Namespace, environment: Mapping[str, str], is_local: bool = False) -> ApiConfig:
    """The configuration from the parsed flags, for a server on loopback if `is_local`.

    Raises UsageError, naming the flag and what to do.
    """
    database = args.database_url or environment.get(DATABASE_URL) or None
    if args.data_dir is not None and Path(args.data_dir).exists() and not Path(args.data_dir).is_dir():
        raise UsageError(f"--data-dir {args.data_dir}: is no folder")
    if args.data_dir is not None and database is not None:
        source = "--database-url" if args.database_url else f"${DATABASE_URL}"
        raise UsageError(f"--data-dir and {source} exclude each other: videos are kept in one of them")
    if args.ssl_keyfile is not None and args.ssl_certfile is None:
        raise UsageError("--ssl-keyfile needs --ssl-certfile: a key without its certificate proves nothing")
    limits = Limits()
    return ApiConfig(
        certificate=Certificate(args.ssl_certfile, args.ssl_keyfile) if args.ssl_certfile is not None else None,
        limits=Limits(
            pixels=args.max_pixels,
            steps=args.max_steps,
            frames=args.max_frames,
            video_pixels=args.max_video_pixels,
            audio_seconds=args.max_audio_seconds,
            count=args.max_n,
            prompt=args.max_prompt_length or limits.prompt,
            conversation=args.max_prompt_length or limits.conversation,
            body=args.max_body_bytes,
            bodies=args.max_buffered_bytes,
        ),
        key_file=args.api_key_file,
        origins=tuple(args.cors_origin),
        is_local=is_local,
        hosts=tuple(args.allowed_host),
        playground=args.playground,
        videos=VideoConfig(args.data_dir, database, args.video_jobs, args.video_max_age * HOUR, args.video_max_bytes),
        loras=LoraLimits(args.max_loras, args.max_lora_bytes),
        result_cache_bytes=args.result_cache_bytes,
    )
