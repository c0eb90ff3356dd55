"""The frontend's own help panel shows a node's page with its picture."""

SELECT = """() => { const node = app.graph._nodes.find(node => node.type === 'TrajectoryGrid')
  app.canvas.ds.scale = 1
  app.canvas.ds.offset = [-node.pos[0] + 700, -node.pos[1] + 420]
  app.canvas.selectNode(node)
  app.canvas.setDirty(true, true) }"""


def test_the_panel_shows_page_and_picture(tab):
    tab.template("00-start-here")
    tab.page.wait_for_timeout(1500)
    tab.evaluate(SELECT)
    tab.page.get_by_test_id("info-button").first.click()
    tab.page.get_by_role("heading", name="Trajectory Grid", exact=True).wait_for()
    tab.page.wait_for_function(
        "document.querySelector('img[src*=\"docs/images/TrajectoryGrid.jpg\"]')?.naturalWidth > 100"
    )
