/** Widgets that show what a run has made: trajectory viewer, latent map, CFRT panel. */
import { api } from '/scripts/api.js'
import { app } from '/scripts/app.js'
import { CFRTView } from './parts/cfrt.js'
import { CompareView } from './parts/compare.js'
import { filled, make, place } from './parts/elements.js'
import { LatentMapView } from './parts/map.js'
import { UnknownFormat, decoded, predictions, readView, readWords, translate } from './parts/server.js'
import { addStyle } from './parts/style.js'
import { TrajectoryView } from './parts/viewer.js'

/** @import { ComfyNode } from './types/comfy' */
/** @import { Shown, ViewFile } from './types/views' */
/** @import { File } from './parts/server.js' */
/** @import { Host, Widget } from './types/widgets' */

/**
 * What shows a node's runs.
 * @typedef {object} Kind
 * @property {new (host: Host<any>) => Widget} View each has a state of its own
 * @property {ViewFile['view']} view the files that it shows
 * @property {number} height least of a node that shows it, in pixels
 * @property {number} width likewise
 * @property {string} [hint] what stands there before a run
 */

const FIGURE = 'Run to see the figure.'
const STUDY = 'Run to fill the table; Cancel keeps what is done.'
const COMPARE = 'Run with original and image to compare them.'
/** @type {Record<string, Kind>} by the node's class */
const VIEWS = {
  PromptSwapKSampler: { View: TrajectoryView, view: 'trajectory', height: 300, width: 460 },
  BezierLatentInterpolate: { View: TrajectoryView, view: 'trajectory', height: 300, width: 460 },
  TrajectoryGrid: { View: TrajectoryView, view: 'trajectory', height: 380, width: 460 },
  LatentTSNE: { View: LatentMapView, view: 'map', height: 400, width: 460, hint: FIGURE },
  CFRTEvaluator: { View: CFRTView, view: 'cfrt', height: 240, width: 460, hint: FIGURE },
  MedicalStudy: { View: CFRTView, view: 'cfrt', height: 240, width: 460, hint: STUDY },
  MinimalCounterfactual: { View: CompareView, view: 'compare', height: 320, width: 520, hint: COMPARE },
  SaveMedicalImage: { View: CompareView, view: 'compare', height: 320, width: 520, hint: COMPARE },
}
/** Node classes without a view of their own, whose decoded images the viewers of the same trajectory show. */
const SOURCES = ['TrajectoryFilm']
/** Node classes whose figure the frontend shows, and for which the bundled workflows keep room. */
const FIGURES = ['SaveTraversalFigure', 'LatentDirectionCosine', 'IdentityPreservation']
/** Node classes that say something by a run, and what stands there before. */
const SAYING = /** @type {Record<string, string>} */ ({
  ProjectToLatent: 'Run to see whether the model knows such an image.',
})
const HINT = 30
/** Room for four lines. */
const WORDS = 76
const GONE = () => translate('The files of this run are gone; run again.')
const UNKNOWN_FORMAT = () =>
  translate('The files of this run have the format {format}, which this page does not know; reload the page.')
const UNWRITTEN = () =>
  translate('The files of this view could not be written ({reason}); the outputs of the node are whole.')
/** What is kept in the workflow: where the last run's file is, and where the user was in it. */
const PROPERTY = 'medtraverse_view'

/**
 * @typedef {object} Follower what a node's runs are told to
 * @property {Record<string, unknown>} state
 * @property {(file: File, grow: boolean) => void} open `grow` makes room for the view
 * @property {(reason: string) => void} fail the files of a run could not be written
 */

/** Let the frontend see a change that it has not made itself: it keeps drafts and undo by this. */
function changed() {
  const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker
  // captureCanvasState has taken the place of checkState, which newer frontends warn of.
  if (tracker?.captureCanvasState) tracker.captureCanvasState()
  else tracker?.checkState?.()
}

/**
 * Show a widget's element where that of a removed node of the same id still stands: after undo, Nodes 2.0 keeps the
 * element that it has put into the page first.
 * @param {ComfyNode} node
 * @param {HTMLElement} box
 */
function takePlace(node, box) {
  if (box.isConnected) return
  const removed = `.mt-view[data-mt-node="${node.comfyClass}"][data-mt-gone="${node.id}"]`
  document.querySelector(removed)?.replaceWith(box)
}

/**
 * Fill the room that a workflow keeps for what a run will show. On the legacy canvas a widget takes it by itself;
 * Nodes 2.0 would leave half of the node empty.
 * @param {HTMLElement} box
 * @param {() => boolean} waiting
 * @returns {ResizeObserver} to be ended with the node
 */
function fillRoom(box, waiting) {
  const edge = 24
  let turns = 0
  let most = 0
  const watched = new ResizeObserver(() => {
    const body = /** @type {HTMLElement | null} */ (box.closest('[data-node-id]'))
    if (!body || !waiting() || turns > 4) return
    watched.observe(body)
    const [outer, inner] = [body.getBoundingClientRect(), box.getBoundingClientRect()]
    // A node that has grown with the box goes back.
    most ||= body.offsetHeight
    const below = ((outer.bottom - inner.bottom) * body.offsetHeight) / (outer.height || 1)
    const change = body.offsetHeight > most ? most - body.offsetHeight : Math.max(0, below - edge)
    if (Math.abs(change) < 1) return
    turns++
    box.style.minHeight = `${Math.round(box.offsetHeight + change)}px`
  })
  watched.observe(box)
  return watched
}

/**
 * Say in a node that its figure comes with a run.
 * @param {ComfyNode} node
 */
function awaitFigure(node) {
  addStyle()
  const hint = make('div', { class: 'mt-hint' }, translate(FIGURE))
  const box = make('div', { class: 'mt-view', 'data-mt-node': node.comfyClass }, hint)
  let ran = false
  // The frontend brings figures back by itself when a workflow is opened again.
  const waiting = () => !ran && !node.imgs?.length
  const widget = place(node, 'medtraverse_figure', box, () => (waiting() ? HINT : 0), {
    most: () => (waiting() ? 4096 : 0),
  })
  const room = fillRoom(box, waiting)
  const executed = node.onExecuted
  node.onExecuted = function (output) {
    ran = true
    widget.hidden = true
    box.style.display = 'none'
    executed?.call(this, output)
  }
  const removed = node.onRemoved
  node.onRemoved = function () {
    removed?.call(this)
    room.disconnect()
  }
}

/**
 * Show the text of a node's runs on it. What the frontend shows of it by itself, Nodes 2.0 leaves out.
 * @param {ComfyNode} node
 * @param {string} before
 */
function showWords(node, before) {
  addStyle()
  const words = make('div', { class: 'mt-words' }, translate(before))
  const box = make('div', { class: 'mt-view', 'data-mt-node': node.comfyClass }, words)
  box.style.minHeight = `${WORDS}px`
  place(node, 'medtraverse_words', box, () => WORDS)
  const executed = node.onExecuted
  node.onExecuted = function (output) {
    executed?.call(this, output)
    const text = /** @type {{text?: string[]} | null} */ (output)?.text
    if (!text) return
    takePlace(node, box)
    words.textContent = text.join('\n')
  }
  const removed = node.onRemoved
  node.onRemoved = function () {
    removed?.call(this)
    box.dataset.mtGone = String(node.id)
  }
}

/**
 * Add the widget to a node that was just created, and follow its runs.
 * @param {ComfyNode} node
 * @param {Kind} kind
 */
function attach(node, { View, view, height, width, hint: words = 'Run to look at the trajectory.' }) {
  addStyle()
  const hintText = translate(words)
  const hint = make('div', { class: 'mt-hint' }, hintText)
  const box = make('div', { class: 'mt-view', 'data-mt-node': node.comfyClass }, hint)
  /** @type {Widget | null} */
  let shown = null
  let asked = 0
  /** @type {Host<Record<string, unknown>>} */
  const host = {
    state: {},
    save() {
      node.properties[PROPERTY] = { ...kept(node), state: { ...host.state } }
      changed()
    },
    t: translate,
  }
  // As high as can be before a run too, so that the room kept for the view is no empty half of the node.
  place(node, 'medtraverse_view', box, () => (shown ? height : HINT))
  const room = fillRoom(box, () => !shown && hint.textContent === hintText)

  /** @param {string} text */
  const say = (text) => {
    takePlace(node, box)
    hint.textContent = text
    hint.hidden = !text
  }

  const close = () => {
    asked++
    shown?.dispose()
    shown?.element.remove()
    shown = null
    box.style.minHeight = ''
  }

  follow(node, {
    get state() {
      return host.state
    },
    set state(state) {
      host.state = state
    },
    async open(file, grow) {
      const turn = ++asked
      try {
        const data = await readView(file)
        if (turn !== asked) return
        if (data.view !== view) throw new Error(`a ${data.view} view`)
        if (data.view === 'cfrt') predictions.add(data)
        if (!shown) {
          shown = new View(host)
          box.append(shown.element)
          // Nodes 2.0 asks the element, not the widget.
          box.style.minHeight = `${height - 20}px`
        }
        say('')
        shown.show(data)
        const [wide, tall] = node.size
        const needed = node.computeSize()[1]
        if (grow || tall < needed) node.setSize([Math.max(wide, width), Math.max(tall, needed)])
        node.setDirtyCanvas(true, true)
      } catch (error) {
        if (turn !== asked) return
        close()
        const unknown = error instanceof UnknownFormat
        say(unknown ? filled(UNKNOWN_FORMAT(), { format: String(error.format) }) : GONE())
      }
    },
    fail(reason) {
      close()
      say(filled(UNWRITTEN(), { reason }))
    },
  })
  const removed = node.onRemoved
  node.onRemoved = function () {
    removed?.call(this)
    box.dataset.mtGone = String(node.id)
    room.disconnect()
    close()
  }
}

/**
 * What a node's properties keep of its last run.
 * @param {ComfyNode} node
 * @returns {{file?: File, state?: Record<string, unknown>} | undefined}
 */
const kept = (node) =>
  /** @type {{file?: File, state?: Record<string, unknown>} | undefined} */ (node.properties?.[PROPERTY])

/**
 * Open the file of every run, and the one that a workflow brings along.
 * @param {ComfyNode} node
 * @param {Follower} follower
 */
function follow(node, follower) {
  const executed = node.onExecuted
  node.onExecuted = function (output) {
    executed?.call(this, output)
    const shown = /** @type {Partial<Shown> | null} */ (output)?.medtraverse_view?.[0]
    if (!shown) return
    const state = { ...follower.state }
    if ('unwritten' in shown) {
      node.properties[PROPERTY] = { state }
      return follower.fail(shown.unwritten)
    }
    const { view, subfolder, type } = shown
    const file = { filename: view, subfolder, type }
    node.properties[PROPERTY] = { file, state }
    follower.open(file, true)
  }
  const configure = node.onConfigure
  node.onConfigure = function (serialised) {
    configure?.call(this, serialised)
    // A copy has the same properties object until one of them is changed.
    const own = structuredClone(kept(node))
    if (!own?.file) return
    node.properties[PROPERTY] = own
    follower.state = own.state ?? {}
    follower.open(own.file, false)
  }
}

const LOADER = 'MedicalCheckpointLoader'

/** Say what is wrong with the user's own domain files: their sentences stand among the loader's choices. */
async function tellMistakes() {
  const answer = await api.fetchApi(`/object_info/${LOADER}`)
  const [kind, options] = (await answer.json())[LOADER].input.required.domain
  const choices = /** @type {string[]} */ (options?.options ?? kind)
  for (const detail of choices.filter((choice) => choice.startsWith('domain file ')))
    app.extensionManager?.toast?.add?.({ severity: 'warn', summary: 'MedTraverse', detail, life: 20_000 })
}

app.registerExtension({
  name: 'MedTraverse.Views',
  async setup() {
    const language = app.extensionManager?.setting?.get?.('Comfy.Locale')
    await readWords(typeof language === 'string' ? language : 'en')
    await tellMistakes()
  },
  // The user has pressed R.
  refreshComboInNodes: tellMistakes,
  nodeCreated(node) {
    const kind = VIEWS[node.comfyClass ?? '']
    if (kind) attach(node, kind)
    if (FIGURES.includes(node.comfyClass ?? '')) awaitFigure(node)
    const before = SAYING[node.comfyClass ?? '']
    if (before) showWords(node, before)
    if (SOURCES.includes(node.comfyClass ?? ''))
      follow(node, {
        state: {},
        open: (file) =>
          void readView(file).then(
            (view) => view.view === 'trajectory' && decoded.add(view),
            () => {},
          ),
        fail: () => {},
      })
  },
})
