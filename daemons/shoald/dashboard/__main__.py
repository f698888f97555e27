"""`python -m shoald.dashboard`: the dashboard's process; see `process`."""

import sys

from shoald.bare import skip_user_api

if __name__ == "__main__":
    skip_user_api()

    from shoald.dashboard.process import main

    main(sys.argv[1:])
