"""Real brokers that a test may wipe, kill and start again; none needs root."""

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import redis
from amqp import Connection as AmqpConnection

from tests.peers import free_port, wait_until
from worker.queues import QUEUE_OF

QUEUES = sorted(set(QUEUE_OF.values()))
RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


class Redis:
    """Redis from Debian's packages, with a password; it keeps nothing."""

    command = "redis-server"

    def __init__(self, folder: Path):
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://:secret@127.0.0.1:{self.port}/0"
        self.process = None

    def start(self) -> "Redis":
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(self.command, "--port", str(self.port), "--bind", "127.0.0.1"),
                    *("--requirepass", "secret", "--save", ""),
                    *("--dir", str(self.folder)),
                ],
                stdout=log,
                stderr=log,
            )
        wait_until(self._answers, "Redis's start")
        return self

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

    def wipe(self) -> None:
        """Forget everything, at once."""
        with self.client() as client:
            client.flushall()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    remove = kill

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False


class RabbitMq:
    """RabbitMQ from Debian's packages: a node of its own, in a folder of its own.

    It looks for an acknowledgement that is due every `tick`, and waits for one for
    `patience`; both are in milliseconds.
    """

    def __init__(self, patience: int = 1_800_000, tick: int = 60_000):
        self.folder = Path(tempfile.mkdtemp(prefix="sentinode-mq-"))
        self.port, self._distribution, self._names = (free_port() for _ in range(3))
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        self.process = None
        (self.folder / "plugins").write_text("[].")
        (self.folder / "rabbitmq.conf").write_text(
            f"consumer_timeout = {patience}\nlog.console = false\n"
        )
        (self.folder / "advanced.config").write_text(
            f"[{{rabbit, [{{channel_tick_interval, {tick}}}]}}]."
        )

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "HOME": str(self.folder),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._names),
            "ERL_EPMD_RELAXED_COMMAND_CHECK": "1",  # it may be ended while nodes live
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_NODENAME": f"sentinode{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
        }

    def start(self) -> "RabbitMq":
        with (self.folder / "start.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(RABBITMQ)],
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._answers, "RabbitMQ's start")
        return self

    def connection(self) -> AmqpConnection:
        return AmqpConnection(f"127.0.0.1:{self.port}", connect_timeout=2)

    def wipe(self) -> None:
        """Delete every queue with its messages, under the feet of its consumers."""
        with self.connection() as connection, connection.channel() as channel:
            for name in QUEUES:
                channel.queue_delete(name)

    def kill(self) -> None:
        """End the node at once; its folder stays."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
            self.process = None

    def remove(self) -> None:
        self.kill()
        with suppress(OSError):  # Erlang's name server stays behind else
            self._end_names()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end_names(self) -> None:
        subprocess.run(
            ["epmd", "-kill"], env=self.environment, capture_output=True, check=False
        )

    def _answers(self) -> bool:
        try:
            with self.connection():
                return True
        except OSError:
            return False
