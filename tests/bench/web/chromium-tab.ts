/** A Chromium with a profile on disk, in which pages of the benchmarks are run one after another. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type BrowserContext, chromium } from 'playwright-core';

const chromiumPath = process.env.PAGELITE_CHROMIUM ?? '/usr/bin/chromium';
const args = ['--no-sandbox', '--disable-quic', '--disable-background-networking'];
/** A browser that has just been started is busy with itself on every core. */
const settleMs = 2000;
/** Loading half a gigabyte into IndexedDB takes minutes. */
const pageTimeoutMs = 900_000;

export class ChromiumTab {
  readonly #context: BrowserContext;

  private constructor(context: BrowserContext) {
    this.#context = context;
  }

  static async open(profile: string): Promise<ChromiumTab> {
    const context = await chromium.launchPersistentContext(profile, { executablePath: chromiumPath, args });
    context.setDefaultTimeout(pageTimeoutMs);
    await sleep(settleMs);
    return new ChromiumTab(context);
  }

  /** Opens a page in a new tab, waits for its `window.result`, and closes the tab. Throws what the page reports. */
  async run<T>(url: string): Promise<T> {
    const [result] = await this.runInTurn<T>([url]);
    return result!;
  }

  /** Pages one after another in one tab, as somebody who loads a page again. */
  async runInTurn<T>(urls: readonly string[]): Promise<T[]> {
    const page = await this.#context.newPage();
    const results: T[] = [];
    try {
      for (const url of urls) {
        await page.goto(url);
        const result = (await page.evaluate('window.result')) as T & { readonly error?: string };
        if (result.error !== undefined) throw new Error(`${url}: ${result.error}`);
        results.push(result);
      }
      return results;
    } finally {
      await page.close();
    }
  }

  async close(): Promise<void> {
    await this.#context.close();
  }
}
