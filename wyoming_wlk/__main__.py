import sys

from wyoming_wlk.cli import main

sys.exit(main())
