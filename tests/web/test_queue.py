"""A workflow run as a user runs it: opened, Run pressed, the figure seen on its node."""

import re

FEWER = """for (const node of app.graph._nodes) for (const widget of node.widgets ?? []) {
  if (node.type === 'PromptSwapKSampler' && widget.name === 'steps') widget.value = 18
  if (widget.name === 'swap_steps') widget.value = '15,10,5'
}"""


def test_run_pressed_on_the_first_workflow_shows_the_trajectory_on_its_node(tab, bare_errors):
    tab.template("00-start-here")
    tab.evaluate(FEWER)
    tab.page.get_by_role("button", name=re.compile("^Run")).first.click()
    tab.page.wait_for_function(
        "app.graph._nodes.some(node => node.type === 'TrajectoryGrid' && node.imgs?.length)", timeout=120_000
    )
    width, height = tab.evaluate(
        """(({naturalWidth, naturalHeight}) => [naturalWidth, naturalHeight])(
          app.graph._nodes.find(node => node.type === 'TrajectoryGrid').imgs[0])"""
    )
    assert width > height > 200
    assert set(tab.errors) <= bare_errors


def test_a_workflow_with_the_papers_settings_says_which_checkpoint_is_missing(tab):
    tab.template("01-fig1-traversal-strip-paper")
    tab.page.get_by_role("button", name=re.compile("^Run")).first.click()
    tab.wait_for_error("choose your Stable Diffusion 1.5 base", panel="CheXpert model - checkpoint")
