"""A Kubernetes cluster on this machine: kind, with the dev stack and the chart in it.

    tools       helm, kubectl, kind and Go, installed where they are missing
    engine      the Docker engine: one that answers, else Debian's, installed and started
    cluster     kind's cluster, of kind's own node image or, where no registry answers, of one built here
    images      what runs in it: the project's images and the dev stack's
    demo        the whole story, from `kubectl apply` to a confirmed deposit
    __main__    the command line

It stands on `devstack`: its steps, its processes, its errors.
"""
