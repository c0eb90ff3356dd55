// What web/*.js takes from the frontend's /scripts/app.js and /scripts/api.js. Not a .js file: ComfyUI would
// load it in the browser.
import type { ComfyApi, ComfyApp, ComfyExtension, DOMWidget, DOMWidgetOptions } from '@comfyorg/comfyui-frontend-types'

type LGraphNode = Parameters<NonNullable<ComfyExtension['nodeCreated']>>[0]

/** Widgets that only show something say `serialize: false` here and on the widget itself. */
export interface WidgetOptions<V extends object | string> extends DOMWidgetOptions<V> {
  serialize?: boolean
}

/** A node with what the frontend adds to its class, which the package of types leaves out. */
export interface ComfyNode extends LGraphNode {
  comfyClass?: string
  addDOMWidget<T extends HTMLElement, V extends object | string>(
    name: string,
    type: string,
    element: T,
    options?: WidgetOptions<V>,
  ): DOMWidget<T, V>
  onExecuted?(output: Record<string, unknown>): void
  /** pictures of the last run, on the legacy canvas */
  imgs?: HTMLImageElement[]
  onDragOver?(event: DragEvent): boolean
  onDragDrop?(event: DragEvent): boolean | Promise<boolean>
}

export interface Extension extends ComfyExtension {
  nodeCreated?(node: ComfyNode, app: ComfyApp): void
  loadedGraphNode?(node: ComfyNode, app: ComfyApp): void
}

/**
 * What keeps a workflow's drafts and undo; the newer frontends have the first method, the older ones the
 * second.
 */
interface ChangeTracker {
  captureCanvasState?(): void
  checkState?(): void
}

/** The part of the frontend's stores that the page uses; the package of types lacks most of it. */
interface ExtensionManager {
  workflow?: { activeWorkflow?: { changeTracker?: ChangeTracker | null } | null }
  setting?: { get?(id: string): unknown }
  toast?: { add?(message: { severity: string; summary: string; detail: string; life: number }): void }
}

export interface App extends Omit<ComfyApp, 'extensionManager'> {
  extensionManager?: ExtensionManager
  registerExtension(extension: Extension): void
}

export const app: App
export const api: ComfyApi
