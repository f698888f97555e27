"""`python -m shoald.node`: a node daemon. The fork server is forked before anything else is loaded; see
`lifecycle`.
"""

import gc
import sys

from shoald.worker import forkserver

if __name__ == "__main__":
    fork_server = forkserver.start()

    from shoald.bare import skip_user_api

    skip_user_api()

    from shoal.config import GC_THRESHOLD

    gc.set_threshold(*GC_THRESHOLD)  # before the imports

    from shoald.node.lifecycle import main

    main(sys.argv[1:], fork_server)
