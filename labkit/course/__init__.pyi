from .checkup import doctor as doctor
