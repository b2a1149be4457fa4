"""The errors that mean that a server cannot be reached now and may come back."""

from kombu.exceptions import KombuError
from psycopg import Error as PostgresError
from redis.exceptions import RedisError
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

# Raised by a transaction that Postgres did not answer.
DATABASE_UNAVAILABLE = (OperationalError, InterfaceError)
# For a loop that only has to survive: whatever the servers' drivers raise.
SERVER_UNAVAILABLE = (SQLAlchemyError, PostgresError, KombuError, RedisError, OSError)
