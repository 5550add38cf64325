"""No module imports itself through others, not even for annotations alone."""

from graphlib import CycleError, TopologicalSorter

import grimp
import pytest


def test_imports_have_no_cycles():
    graph = grimp.build_graph("recpolicy", exclude_type_checking_imports=False)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])), pytrace=False)
