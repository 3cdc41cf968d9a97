"""The method: modalities, encoders, clustering, pseudo-labels, training, reports. Reads shards; knows no Prefect."""
