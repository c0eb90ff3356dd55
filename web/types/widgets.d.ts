// What a widget and the node that shows it know of each other.
import type { ViewFile } from './views'

/** What a node gives to its widget. */
export interface Host<State> {
  /** where the user is in the view; empty at first, and whatever an old workflow has kept */
  state: State
  /** keep the state in the workflow */
  save(): void
  /** the text in the user's language */
  t(text: string): string
}

/** A widget that shows the files of one kind of view. */
export interface Widget {
  element: HTMLElement
  show(file: ViewFile): void
  dispose(): void
}

/** A point of a trajectory: number of its patient, attribute and point. */
export type Place = [patient: number, attribute: number, point: number]

export type ViewerState = {
  patient: number
  /** a name, "" for all side by side */
  attribute: string
  point: number
  difference: boolean
  loop: boolean
  pins: Place[]
}

export type MapState = {
  colour: string
  zoom: number
  pan: [number, number]
  /** names of attributes */
  hidden: string[]
}

export type PanelState = {
  /** the attribute whose patients are listed */
  open: string | null
  all: boolean
}

export type CompareState = {
  pair: number
  /** "side" by side, or one image over the other with a "slider" between them */
  layout: 'side' | 'slider'
  /** where the slider stands, 0 to 1 */
  split: number
  zoom: number
  /** the image's point at the centre, 0 to 1 */
  centre: [number, number]
  /** of the window over grey values, 0 to 1 */
  level: number
  width: number
}
