/** Widgets that show what a run has made: trajectory viewer, latent map, CFRT panel. */
import { app } from '/scripts/app.js'
import { CFRTView } from './parts/cfrt.js'
import { LatentMapView } from './parts/map.js'
import { decoded, predictions, readView, readWords, translate } from './parts/server.js'
import { addStyle } from './parts/style.js'
import { TrajectoryView } from './parts/viewer.js'

/** Of each node class: its view, and the least height and width of a node that shows it, in pixels. */
const VIEWS = {
  PromptSwapKSampler: { View: TrajectoryView, height: 300, width: 460 },
  BezierLatentInterpolate: { View: TrajectoryView, height: 300, width: 460 },
  TrajectoryGrid: { View: TrajectoryView, height: 380, width: 460 },
  LatentTSNE: { View: LatentMapView, height: 400, width: 460 },
  CFRTEvaluator: { View: CFRTView, height: 240, width: 460 },
}
/** Node classes without a view of their own, whose decoded images the viewers of the same trajectory show. */
const SOURCES = ['TrajectoryFilm']
const HINT = 30
/** What is kept in the workflow: where the last run's file is, and where the user was in it. */
const PROPERTY = 'medtraverse_view'

/** Add the widget to a node that was just created, and follow its runs. @param {any} node @param {{View: any, height: number, width: number}} kind */
function attach(node, { View, height, width }) {
  addStyle()
  const box = document.createElement('div')
  box.className = 'mt-view'
  box.dataset.mtNode = node.comfyClass
  const hint = document.createElement('div')
  hint.className = 'mt-hint'
  hint.textContent = translate('Run to look at the trajectory.')
  box.append(hint)
  /** @type {any} */
  let view = null
  let asked = 0
  const host = {
    /** @type {Record<string, any>} */
    state: {},
    save() {
      node.properties[PROPERTY] = { ...node.properties[PROPERTY], state: { ...host.state } }
      // The frontend keeps drafts and undo by this.
      const manager = /** @type {any} */ (app.extensionManager)
      manager?.workflow?.activeWorkflow?.changeTracker?.checkState?.()
    },
    t: translate,
  }
  const widget = node.addDOMWidget('medtraverse_view', 'MEDTRAVERSE_VIEW', box, {
    serialize: false,
    hideOnZoom: true,
    getMinHeight: () => (view ? height : HINT),
    getMaxHeight: () => (view ? 4096 : HINT),
  })
  widget.serialize = false

  /** @param {string} text */
  const say = (text) => {
    hint.textContent = text
    hint.hidden = !text
  }

  /** @param {any} file @param {boolean} grow make room for the view */
  const open = async (file, grow) => {
    const turn = ++asked
    try {
      const data = await readView(file)
      if (turn !== asked) return
      if (data.view === 'cfrt') predictions.add(data)
      if (!view) {
        view = new View(host)
        box.append(view.element)
        // Nodes 2.0 asks the element, not the widget.
        box.style.minHeight = `${height - 20}px`
      }
      say('')
      view.show(data)
      const [wide, tall] = node.size
      const needed = node.computeSize()[1]
      if (grow || tall < needed) node.setSize([Math.max(wide, width), Math.max(tall, needed)])
      node.setDirtyCanvas?.(true, true)
    } catch (error) {
      if (turn !== asked) return
      close()
      say(translate('The files of this run are gone; run again.'))
    }
  }

  const close = () => {
    view?.dispose()
    view?.element.remove()
    view = null
    box.style.minHeight = ''
  }

  follow(node, host, open)
  const removed = node.onRemoved
  node.onRemoved = function () {
    removed?.apply(this, arguments)
    asked++
    close()
  }
}

/**
 * Open the file of every run, and the one that a workflow brings along.
 * @param {any} node @param {{state: Record<string, any>}} host @param {(file: any, grow: boolean) => void} open
 */
function follow(node, host, open) {
  const executed = node.onExecuted
  node.onExecuted = function (/** @type {any} */ output) {
    executed?.apply(this, arguments)
    const file = output?.medtraverse_view?.[0]
    if (!file) return
    node.properties[PROPERTY] = { file: { filename: file.filename, subfolder: file.subfolder, type: file.type }, state: { ...host.state } }
    open(file, true)
  }
  const configure = node.onConfigure
  node.onConfigure = function () {
    configure?.apply(this, arguments)
    const kept = node.properties?.[PROPERTY]
    if (!kept?.file) return
    // A copy has the same properties object until one of them is changed.
    node.properties[PROPERTY] = structuredClone(kept)
    host.state = { ...kept.state }
    open(kept.file, false)
  }
}

app.registerExtension({
  name: 'MedTraverse.Views',
  async setup() {
    await readWords(app.extensionManager?.setting?.get?.('Comfy.Locale') ?? 'en')
  },
  nodeCreated(/** @type {any} */ node) {
    const kind = VIEWS[/** @type {keyof typeof VIEWS} */ (node.comfyClass)]
    if (kind) attach(node, kind)
    if (SOURCES.includes(node.comfyClass))
      follow(node, { state: {} }, (file) => readView(file).then((view) => decoded.add(view), () => {}))
  },
})
