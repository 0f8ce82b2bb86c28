/**
 * What is read and set in the running backend's memory: the xid of its transaction, and settings that a read-only compute locks.
 *
 * Struct offsets are PostgreSQL 18's in wasm32, and each is checked against a value that is known otherwise, so that another build of
 * PGlite fails at start, loudly. PGPROC (proc.h): xid 36, pid 44. config_bool (guc_tables.h): variable 92, check_hook 100. WalUsage
 * (instrument.h): wal_records 0, which is never below the records that have been written out.
 */
import { assert, must } from '../engine/assert.ts';
import type { EmscriptenModule, WasmExports } from './vfs/emscripten.ts';

const procXid = 36;
const procPid = 44;
const boolVariable = 92;
const boolCheckHook = 100;

export class BackendAbi {
  readonly #exports: WasmExports;
  readonly #memory: WebAssembly.Memory;
  #view: DataView;
  readonly #myProc: number;
  readonly #walUsage: number;

  constructor(exports: WasmExports, memory: WebAssembly.Memory) {
    this.#exports = exports;
    this.#memory = memory;
    this.#view = new DataView(memory.buffer);
    this.#myProc = this.#address('MyProc');
    this.#walUsage = this.#address('pgWalUsage');
  }

  /** Xid of the running transaction, 0 if it has none or there is none. */
  currentXid(): number {
    const view = this.#current();
    const proc = view.getUint32(this.#myProc, true);
    return proc === 0 ? 0 : view.getUint32(proc + procXid, true);
  }

  /** WAL records that the backend has inserted since it was started. */
  insertedRecords(): number {
    const view = this.#current();
    return view.getUint32(this.#walUsage, true) + view.getUint32(this.#walUsage + 4, true) * 4294967296;
  }

  /** XLogFlush: writes and flushes everything that was inserted, if there is anything behind `flushedLsn`. Where a page may be written, this may be, too. */
  flushWal(flushedLsn: number): void {
    const flush = this.#exports.XLogFlush as (lsn: bigint) => void;
    flush(BigInt(flushedLsn + 1));
  }

  /** Throws an assertion if this is not the build that the offsets are of. Once the backend runs. */
  checkLayout(): void {
    const view = this.#current();
    const proc = view.getUint32(this.#myProc, true);
    assert(proc !== 0, 'the backend has no PGPROC');
    const pid = view.getInt32(this.#address('MyProcPid'), true);
    assert(pid !== 0 && view.getInt32(proc + procPid, true) === pid, 'PGPROC has another layout than PostgreSQL 18');
  }

  /** Makes a boolean setting that is on refuse to be turned off, whoever asks in whatever way. */
  lockOn(name: string, module: EmscriptenModule): void {
    const findOption = this.#exports.find_option as (
      name: number,
      create: number,
      skip: number,
      level: number,
    ) => number;
    const text = new TextEncoder().encode(`${name}\0`);
    const pointer = module._malloc(text.length);
    module.HEAPU8.set(text, pointer);
    const option = findOption(pointer, 0, 1, 0);
    module._free(pointer);
    assert(option !== 0, `there is no setting ${name}`);
    const view = this.#current();
    const variable = view.getUint32(option + boolVariable, true);
    assert(view.getUint8(variable) === 1, `setting ${name} is not on, or config_bool has another layout`);
    const hook = module.addFunction((newValue) => module.HEAPU8[newValue!]!, 'iiii');
    this.#current().setUint32(option + boolCheckHook, hook, true);
  }

  #address(name: string): number {
    const value = must(this.#exports[name] as WebAssembly.Global | undefined, `the module does not export ${name}`);
    return Number(value.value);
  }

  #current(): DataView {
    if (this.#view.buffer !== this.#memory.buffer) this.#view = new DataView(this.#memory.buffer);
    return this.#view;
  }
}
