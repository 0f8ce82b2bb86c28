// Vitest runs the TypeScript sources; tests that start processes or worker threads use the build in dist/ (`npm test` builds first).
import { configDefaults, defineConfig } from 'vitest/config';
import { hasChromium } from './tests/web/support/chromium.ts';

/** Where .ci/run wants the results as JSON, to count them. */
const report = process.env.PAGELITE_TEST_REPORT;

export default defineConfig({
  test: {
    include: ['tests/**/*.test.ts'],
    // Scenarios of a tab run where there is a Chromium.
    exclude: [...configDefaults.exclude, ...(hasChromium() ? [] : ['**/*.web.test.ts'])],
    testTimeout: 120_000,
    hookTimeout: 120_000,
    expect: { poll: { timeout: 30_000 } },
    pool: 'forks',
    maxWorkers: 2,
    reporters: report ? ['default', ['json', { outputFile: report }]] : ['default'],
  },
});
