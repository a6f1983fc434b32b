"""URI to ``pyarrow.fs``: one way to read and write a laptop's folder, S3, GCS, HDFS."""
