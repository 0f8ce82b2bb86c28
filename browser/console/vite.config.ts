// The console: a static page in `dist/console`, served by the console server, which also has the browser bundle that the page loads.
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';

export default defineConfig({
  root: 'browser/console',
  base: './',
  publicDir: false,
  logLevel: 'error',
  plugins: [svelte()],
  build: {
    outDir: '../../dist/console',
    emptyOutDir: true,
    target: 'es2022',
    modulePreload: false,
    rollupOptions: { external: ['/pagelite/pagelite.js'] },
  },
});
