"""The HTTP service: a bundle's recommender behind dynamic batching, and its adapters for Ray.

::

    guard        request id, token, body limits, log line and metrics of every request
    app          routes: JSON in, JSON out, problems
    service      what lives from start to stop: recommender, batcher, catalog versions
    batcher      bounded queue → batches of one method and similar length → one worker thread
    server       uvicorn, signals, exit codes
"""
