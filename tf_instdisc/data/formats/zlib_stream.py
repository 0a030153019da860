"""The size of compressed data, without the memory or time to expand it all."""

import tensorflow as tf

_RECORD = 2**18  # Bytes expanded at once.

NAMES = 256
"""Number of file names; larger than the number of concurrent decodes."""


def exceeds(stream: tf.Tensor, most: tf.Tensor) -> tf.Tensor:
    """Tests whether a zlib stream expands to much more than `most` bytes.

    Of TensorFlow's ops, only the readers of files expand a stream step by
    step. The stream is therefore written to a file in memory first.

    Args:
        stream: Scalar string. What follows a damaged part is not counted.
        most: int64 scalar. Less than 512 KiB more are accepted.

    Returns:
        bool scalar.
    """
    name = tf.strings.join(["ram://tf_instdisc/", unused_number()])
    with tf.control_dependencies([tf.io.write_file(name, stream)]):
        records = tf.data.FixedLengthRecordDataset(
            tf.identity(name), _RECORD, compression_type="ZLIB"
        )
    limit = most // _RECORD + 1
    records = records.ignore_errors().take(limit + 1)
    count = records.reduce(tf.constant(0, tf.int64), lambda n, _: n + 1)
    with tf.control_dependencies([count]):
        # No op removes a file.
        emptied = tf.io.write_file(name, "")
    with tf.control_dependencies([emptied]):
        return count > limit


def unused_number() -> tf.Tensor:
    """Returns a scalar string that no other call uses at the same time.

    Numbers repeat after `NAMES` calls, which bounds how many files remain:
    empty ones, and those of calls that were canceled.
    """
    ops = tf.raw_ops
    mutex = ops.MutexV2(shared_name="tf_instdisc_file_numbers_mutex")
    lock = ops.MutexLock(mutex=mutex)
    with tf.control_dependencies([lock]):
        table = ops.MutableHashTableV2(
            key_dtype=tf.int64,
            value_dtype=tf.int64,
            shared_name="tf_instdisc_file_numbers",
        )
        key = tf.constant(0, tf.int64)
        # Other models in the process have their own table, but the same files.
        microseconds = tf.cast(tf.timestamp() * 1e6, tf.int64)
        number = ops.LookupTableFindV2(
            table_handle=table, keys=key, default_value=microseconds * NAMES
        )
        following = number - number % NAMES + (number + 1) % NAMES
        kept = ops.LookupTableInsertV2(
            table_handle=table, keys=key, values=following
        )
    with tf.control_dependencies([kept]):
        released = ops.ConsumeMutexLock(mutex_lock=lock)
    with tf.control_dependencies([released]):
        return tf.strings.as_string(number)
