"""Exceptions that mean a server is unavailable now and may come back."""

from kombu.exceptions import KombuError
from psycopg import Error as PostgresError
from redis.exceptions import RedisError
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

# From a transaction that Postgres did not answer.
DATABASE_UNAVAILABLE = (OperationalError, InterfaceError)
# Any error of the servers' drivers, for loops that must survive them all.
SERVER_UNAVAILABLE = (SQLAlchemyError, PostgresError, KombuError, RedisError, OSError)
