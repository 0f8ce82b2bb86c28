/**
 * Two ends of a Channel in memory: what a WebSocket is between processes, between two parts of one thread.
 *
 * Messages keep their order and arrive in a later microtask, never within `send`, so that code meets the same interleavings as over
 * a socket. Closing one end closes the other after the messages that were sent before.
 */
import { PageliteError } from '../errors.ts';
import type { Channel } from '../services.ts';

export function createChannelPair(): [Channel, Channel] {
  const a = new MemoryChannel();
  const b = new MemoryChannel();
  a.connect(b);
  b.connect(a);
  return [a, b];
}

type Event = { readonly message: Uint8Array } | { readonly error: Error | undefined };

class MemoryChannel implements Channel {
  #peer: MemoryChannel = this;
  #closed = false;
  #inbox: Event[] = [];
  #scheduled = false;
  #messageHandler: ((message: Uint8Array) => void) | undefined;
  #closeHandler: ((error?: Error) => void) | undefined;

  connect(peer: MemoryChannel): void {
    this.#peer = peer;
  }

  get bufferedBytes(): number {
    let bytes = 0;
    for (const event of this.#peer.#inbox) if ('message' in event) bytes += event.message.length;
    return bytes;
  }

  send(message: Uint8Array): void {
    if (this.#closed) throw new PageliteError('closed', 'the channel is closed');
    this.#peer.#receive({ message });
  }

  onMessage(handler: (message: Uint8Array) => void): void {
    this.#messageHandler = handler;
    this.#schedule();
  }

  onClose(handler: (error?: Error) => void): void {
    this.#closeHandler = handler;
    this.#schedule();
  }

  close(error?: Error): void {
    if (this.#closed) {
      // The peer was first, and its close event is still to come; nobody wants the messages before it.
      this.#inbox = this.#inbox.filter((event) => 'error' in event);
      return;
    }
    this.#closed = true;
    this.#inbox = [{ error }];
    this.#schedule();
    this.#peer.#receive({ error });
  }

  #receive(event: Event): void {
    if (this.#closed) return;
    if ('error' in event) this.#closed = true;
    this.#inbox.push(event);
    this.#schedule();
  }

  #schedule(): void {
    if (this.#scheduled || this.#inbox.length === 0) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      this.#deliver();
    });
  }

  /** One event a turn, as long as its handler is there. */
  #deliver(): void {
    const event = this.#inbox[0];
    if (event === undefined) return;
    if ('message' in event) {
      if (this.#messageHandler === undefined) return;
      this.#inbox.shift();
      this.#messageHandler(event.message);
    } else {
      if (this.#closeHandler === undefined) return;
      this.#inbox.shift();
      this.#closeHandler(event.error);
    }
    this.#schedule();
  }
}
