/**
 * What Load Medical Image adds to the page: upload by a button or by dropping files on the node or, for DICOM, on
 * the canvas; and a preview of the chosen file, which browsers cannot show themselves.
 *
 * A file is uploaded under a name made from its content. Its own name may be a patient's, and the name of an upload
 * stands in workflows, in PNGs and in the server's log.
 */
import { api } from '/scripts/api.js'
import { app } from '/scripts/app.js'
import { filled, make, place } from './elements.js'
import { translate } from './server.js'
import { addStyle } from './style.js'

/** @import { ComfyNode } from '../types/comfy' */

const NODE = 'LoadMedicalImage'
const FOLDER = 'medical'
const SUFFIX = /\.(dcm|dicom|dic|png|tiff?|jpe?g|webp|bmp)$/i
const DICOM = /\.(dcm|dicom|dic)$/i
/** Inputs that change what the preview shows, and the name under which the server asks for them. */
const SHOWN = /** @type {const} */ ({
  file: 'file',
  window: 'window',
  window_center: 'center',
  window_width: 'width',
  frame: 'frame',
  first: 'first',
})
const HEIGHT = 210

/**
 * @typedef {object} Field a widget of the node
 * @property {string} name
 * @property {unknown} value
 * @property {{values?: string[]}} [options]
 * @property {((value: unknown) => void)} [callback]
 */

/**
 * A number of 53 bits in hexadecimal, from all bytes: two multiplicative hashes side by side (cyrb53, in the public
 * domain). crypto.subtle would need HTTPS, which a ComfyUI in a clinic's network rarely has.
 * @param {Uint8Array} bytes
 */
export function digest(bytes) {
  let high = 0xdeadbeef ^ bytes.length
  let low = 0x41c6ce57 ^ bytes.length
  for (const byte of bytes) {
    high = Math.imul(high ^ byte, 2654435761)
    low = Math.imul(low ^ byte, 1597334677)
  }
  high = Math.imul(high ^ (high >>> 16), 2246822507) ^ Math.imul(low ^ (low >>> 13), 3266489909)
  low = Math.imul(low ^ (low >>> 16), 2246822507) ^ Math.imul(high ^ (high >>> 13), 3266489909)
  return (4294967296 * (2097151 & low) + (high >>> 0)).toString(16).padStart(14, '0')
}

/**
 * Whether a file may be a medical image: by its suffix, or without one, as DICOM files often are.
 * @param {string} name
 */
const maybeImage = (name) => SUFFIX.test(name) || /^\w*\d+$|^\d+(\.\d+)+$/.test(name)

/**
 * Put one file into ComfyUI's input folder.
 * @param {Blob} content
 * @param {string} name
 * @param {string} subfolder
 */
async function send(content, name, subfolder) {
  const form = new FormData()
  form.append('image', new File([content], name))
  form.append('subfolder', subfolder)
  form.append('type', 'input')
  const answer = await api.fetchApi('/upload/image', { method: 'POST', body: form })
  if (answer.status === 413) throw new Error(translate('The file is larger than this ComfyUI takes.'))
  if (!answer.ok) throw new Error(filled(translate('The upload failed ({status}).'), { status: answer.status }))
  const kept = await answer.json()
  return /** @type {string} */ (kept.subfolder ? `${kept.subfolder}/${kept.name}` : kept.name)
}

/**
 * Upload files; return the choice that names them: a file, or a folder of several.
 * @param {File[]} files
 * @param {(done: number) => void} progress
 */
export async function upload(files, progress = () => {}) {
  const images = files.filter((file) => maybeImage(file.name))
  if (!images.length) throw new Error(translate('Drop DICOM, PNG, TIFF, JPEG or WebP files.'))
  images.sort((a, b) => a.name.localeCompare(b.name, 'en', { numeric: true }))
  const named = []
  for (const file of images) {
    const content = await file.arrayBuffer()
    const suffix = SUFFIX.exec(file.name)?.[0].toLowerCase() ?? '.dcm'
    named.push({ content: new Blob([content]), sum: digest(new Uint8Array(content)), suffix })
  }
  if (named.length === 1) {
    const [{ content, sum, suffix }] = named
    return send(content, `${sum}${suffix}`, FOLDER)
  }
  const together = digest(new TextEncoder().encode(named.map(({ sum }) => sum).join()))
  const folder = `${FOLDER}/${together}`
  for (const [number, { content, sum, suffix }] of named.entries()) {
    await send(content, `${String(number + 1).padStart(5, '0')}-${sum}${suffix}`, folder)
    progress(number + 1)
  }
  return `${folder}/`
}

/**
 * A widget of the node by its name.
 * @param {ComfyNode} node
 * @param {string} name
 */
const field = (node, name) =>
  /** @type {Field | undefined} */ (
    /** @type {unknown} */ (node.widgets?.find((widget) => widget.name === name))
  )

/** Let the frontend see a change that it has not made itself: it keeps drafts and undo by this. */
function changed() {
  const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker
  if (tracker?.captureCanvasState) tracker.captureCanvasState()
  else tracker?.checkState?.()
}

/**
 * The files that a drag carries; while it hovers a browser says only that there are some.
 * @param {DragEvent} event
 */
const filesOf = (event) => [...(event.dataTransfer?.files ?? [])]

/**
 * Add button, drop and preview to a node that was just created.
 * @param {ComfyNode} node
 */
function attach(node) {
  addStyle()
  const picture = make('img', { alt: '', draggable: false })
  const words = make('div', { class: 'mt-medical-words' })
  const box = make('div', { class: 'mt-view mt-medical', 'data-mt-node': NODE }, picture, words)
  Object.assign(box.style, { display: 'flex', flexDirection: 'column' })
  Object.assign(picture.style, {
    flex: '1 1 0',
    minHeight: '0',
    width: '100%',
    height: 'auto',
    objectFit: 'contain',
    background: '#000',
  })
  Object.assign(words.style, { height: 'auto', flex: 'none', padding: '3px 6px', overflowWrap: 'anywhere' })
  let asked = 0
  let waiting = 0

  /** @param {string} text */
  const say = (text) => {
    words.textContent = text
  }

  async function show() {
    const turn = ++asked
    const query = new URLSearchParams()
    for (const [name, key] of Object.entries(SHOWN)) {
      const value = field(node, name)?.value
      if (value !== undefined) query.set(key, String(value))
    }
    if (!query.get('file')) return
    try {
      const answer = await api.fetchApi(`/medtraverse/medical_image?${query}`)
      if (turn !== asked) return
      if (!answer.ok) throw new Error(`${answer.status}`)
      if (answer.headers.get('Content-Type')?.startsWith('text/')) {
        clear()
        return say(await answer.text())
      }
      const told = JSON.parse(answer.headers.get('X-MedTraverse') ?? '{}')
      const content = await answer.blob()
      if (turn !== asked) return
      clear()
      picture.src = URL.createObjectURL(content)
      const many = filled(translate('{count} images; the first one read:'), { count: told.images })
      say(told.images > 1 ? `${many} ${told.line}` : told.line)
    } catch {
      if (turn !== asked) return
      clear()
      say(translate('There is no preview.'))
    }
  }

  function clear() {
    if (picture.src) URL.revokeObjectURL(picture.src)
    picture.removeAttribute('src')
  }

  /** Show once what several widgets change together, as when a workflow opens. */
  function soon() {
    clearTimeout(waiting)
    waiting = setTimeout(show, 150)
  }

  /** @param {File[]} files */
  async function take(files) {
    try {
      say(translate('Uploading …'))
      const choice = await upload(files, (done) => say(`${translate('Uploading …')} ${done} / ${files.length}`))
      const chosen = field(node, 'file')
      if (!chosen) return
      const values = chosen.options?.values
      if (chosen.options && Array.isArray(values) && !values.includes(choice))
        chosen.options.values = [...values, choice]
      chosen.value = choice
      chosen.callback?.(choice)
      node.setDirtyCanvas(true, true)
      changed()
      soon()
    } catch (error) {
      say(error instanceof Error ? error.message : String(error))
    }
  }

  const input = make('input', { type: 'file', multiple: true, hidden: true })
  input.addEventListener('change', () => {
    const files = [...(input.files ?? [])]
    input.value = ''
    if (files.length) void take(files)
  })
  const button = node.addWidget('button', 'upload', '', () => input.click(), {})
  button.label = translate('upload DICOM or image')
  Object.assign(button.options, { serialize: false })
  button.serialize = false

  place(node, 'medtraverse_preview', box, () => HEIGHT, { hideOnZoom: true })
  box.style.minHeight = `${HEIGHT - 20}px`

  const over = node.onDragOver
  node.onDragOver = function (event) {
    return over?.call(this, event) || [...(event.dataTransfer?.items ?? [])].some(({ kind }) => kind === 'file')
  }
  const drop = node.onDragDrop
  node.onDragDrop = function (event) {
    if (drop?.call(this, event)) return true
    const files = filesOf(event)
    if (!files.length) return false
    void take(files)
    return true
  }
  for (const name of Object.keys(SHOWN)) {
    const watched = field(node, name)
    if (!watched) continue
    const before = watched.callback
    watched.callback = function (...given) {
      before?.apply(this, given)
      soon()
    }
  }
  const configure = node.onConfigure
  node.onConfigure = function (serialised) {
    configure?.call(this, serialised)
    soon()
  }
  const removed = node.onRemoved
  node.onRemoved = function () {
    removed?.call(this)
    clearTimeout(waiting)
    asked++
    clear()
  }
  takers.set(node, take)
  soon()
}

/** @type {WeakMap<ComfyNode, (files: File[]) => Promise<void>>} */
const takers = new WeakMap()

/**
 * A DICOM file dropped on the empty canvas brings its own node: the frontend would say that it knows no such file.
 * @param {DragEvent} event
 */
function dropped(event) {
  const files = filesOf(event)
  const canvas = app.canvas
  const onNode =
    event.target instanceof Element &&
    (event.target.closest('.lg-node, .mt-view') ||
      /** @type {{dragOverNode?: unknown}} */ (/** @type {unknown} */ (app)).dragOverNode)
  if (onNode || !files.length || !canvas?.graph || !files.every(({ name }) => DICOM.test(name))) return
  event.preventDefault()
  event.stopImmediatePropagation()
  const node = /** @type {ComfyNode | null} */ (
    /** @type {any} */ (window).LiteGraph.createNode(NODE)
  )
  if (!node) return
  const [x, y] = canvas.convertEventToCanvasOffset(event)
  node.pos = [x, y]
  canvas.graph.add(node)
  canvas.selectNode(node)
  void takers.get(node)?.(files)
}

app.registerExtension({
  name: 'MedTraverse.MedicalUpload',
  setup() {
    // before the frontend's own listener
    window.addEventListener('drop', dropped, true)
  },
  nodeCreated(node) {
    if (node.comfyClass === NODE) attach(node)
  },
})
